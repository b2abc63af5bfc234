"""Removing files of the event log that do not count.

Beyond a partition's last offset lie files that a killed flush left behind, or that a sink is about
to commit: only the sink that owns the partition removes those (``sweep_beyond``). Up to the last
offset lie files that compaction, expiry and erasure replaced, and flushes that came too late: only
who rewrites the topic removes those (``sweep_replaced``). So nobody takes a file away from under
another process that still means to commit it, however long that one sleeps.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from recsys.events.durable_files import TEMPORARY_SUFFIX
from recsys.events.log_files import all_commits, commit_path, commits, data_files

logger = logging.getLogger(__name__)

READER_GRACE_S = 3600.0
"""How long files that were replaced stay for those who read them: the longest scan allowed for."""

_TEMPORARY = re.compile(
    r"\.(?:.+-)?(?P<partition>\d+)-(?P<first>\d+)(?:-[0-9a-f]+\.parquet|\.json)"
    rf"(?:\.[0-9a-f]+)?{re.escape(TEMPORARY_SUFFIX)}"
)


def sweep_beyond(
    log_dir: Path, topic: str, partitions: Collection[int], *, older_than_s: float
) -> int:
    """Remove leftovers beyond the last offsets of partitions the caller owns; gives how many.

    ``older_than_s``: on a disk that machines share, another one may be about to commit young files.
    """
    return _sweep(
        log_dir,
        topic,
        lambda partition, first, last: partition in partitions and first > last,
        older_than_s,
    )


def sweep_replaced(log_dir: Path, topic: str, *, older_than_s: float) -> int:
    """Remove what was replaced and does not count any more; gives the number of files.

    For who holds ``log_rewrite.rewriting``.
    """
    return _sweep(log_dir, topic, lambda _partition, first, last: first <= last, older_than_s)


def _sweep(
    log_dir: Path, topic: str, mine: Callable[[int, int, int], bool], older_than_s: float
) -> int:
    files = [
        (file.path, file.place, file.partition, file.first) for file in data_files(log_dir, topic)
    ]
    files += [
        (path, ("", ""), int(match["partition"]), int(match["first"]))
        for path in (log_dir / topic).glob(f"*/.*{TEMPORARY_SUFFIX}")
        if (match := _TEMPORARY.fullmatch(path.name))
    ]
    # The commits are read after the folders: what was committed in between is seen to count.
    live = commits(log_dir, topic)
    counting = {one.range for one in live}
    named = {part.place for one in live for part in one.commit.parts}
    last = {one.range.partition: one.range.last for one in live}
    begin: dict[int, int] = {}
    for one in live:
        begin.setdefault(one.range.partition, one.range.first)
    gone = [
        commit_path(log_dir, topic, one.range.partition, one.range.first)
        for one in all_commits(log_dir, topic)
        if one.range not in counting and mine(*one.range[:2], last[one.range.partition])
    ]
    # Commits go before their files: none may ever name a file that is gone.
    gone += [
        path
        for path, place, partition, first in files
        # Below the first range nothing was ever replaced: files there have lost their commit.
        if place not in named
        and first >= begin.get(partition, 0)
        and mine(partition, first, last.get(partition, -1))
    ]
    return _remove(gone, older_than_s)


def _remove(paths: Iterable[Path], older_than_s: float) -> int:
    limit_s = time.time() - older_than_s
    removed = 0
    for path in paths:
        try:
            if path.stat().st_mtime > limit_s:
                continue
            path.unlink()
        except FileNotFoundError:
            continue
        removed += 1
        logger.info("removed a leftover", extra={"file": str(path)})
    return removed
