"""Compaction: many small files of the event log become few large ones, with the same rows.

The sink writes a file for each flush and date: history that is replayed leaves hundreds of small
ones. Neighbouring commits of a partition are merged into one, whose file of a date holds the rows
of all of them in the order of their offsets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.events.log_files import Commit, Committed, Part, commits
from recsys.events.log_rewrite import read_part, replace, rewriting, write_part
from recsys.events.log_sweep import READER_GRACE_S, sweep_replaced


@dataclass(frozen=True, kw_only=True)
class CompactionConfig:
    """How large is large."""

    max_rows: int = 1_000_000
    """Rows of one commit after merging: what is held in memory at once, some 200 MB."""
    min_commits: int = 2
    """Fewer neighbours are left alone."""
    grace_s: float = READER_GRACE_S
    """How long replaced files stay for those who read them."""


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What was done to a topic."""

    num_commits_before: int
    num_commits: int
    num_files_before: int
    num_files: int
    num_swept: int
    """Files removed: leftovers, and what earlier compactions replaced."""


def compact(
    log_dir: Path,
    topic: str,
    *,
    config: CompactionConfig = CompactionConfig(),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Compacted:
    """Merge what is small. Killed anywhere, the log holds the same rows; run it again.

    Raises:
        ConfigurationError: when another rewriter works on the topic, or a file is damaged.
    """
    with rewriting(log_dir, topic):
        before = commits(log_dir, topic)
        runs = list(_runs(before, config))
        for done, run in enumerate(runs):
            progress(done, len(runs))
            _merge(log_dir, topic, run)
        progress(len(runs), len(runs))
        num_swept = sweep_replaced(log_dir, topic, older_than_s=config.grace_s)
        after = commits(log_dir, topic)
    return Compacted(
        num_commits_before=len(before),
        num_commits=len(after),
        num_files_before=_num_files(before),
        num_files=_num_files(after),
        num_swept=num_swept,
    )


def _num_files(of: list[Committed]) -> int:
    return sum(len(one.commit.parts) for one in of)


def _runs(live: list[Committed], config: CompactionConfig) -> Iterator[list[Committed]]:
    """Give neighbours to merge. Only those whose offsets follow on each other and whose numbers
    count from the same beginning of Kafka's log are neighbours: a gap stays visible."""
    run: list[Committed] = []
    rows = 0
    for one in live:
        size = sum(part.rows for part in one.commit.parts)
        follows = (
            run
            and run[-1].range.partition == one.range.partition
            and run[-1].range.last + 1 == one.range.first
            and run[-1].commit.base == one.commit.base
        )
        # A large one is left as it is: it would be read and written again for each small neighbour.
        if not follows or rows + size > config.max_rows or rows > config.max_rows // 2:
            if len(run) >= config.min_commits:
                yield run
            run, rows = [], 0
        run.append(one)
        rows += size
    if len(run) >= config.min_commits:
        yield run


def _merge(log_dir: Path, topic: str, run: list[Committed]) -> None:
    partition, first, _ = run[0].range
    by_date: dict[str, list[Part]] = {}
    for one in run:
        for part in one.commit.parts:
            by_date.setdefault(part.date, []).append(part)
    parts: list[Part] = []
    for date, small in sorted(by_date.items()):
        if len(small) == 1:
            parts.append(small[0])  # its only file of the date: it may stay where it is
            continue
        frames = [read_part(log_dir, topic, part) for part in small]
        frame = pl.concat(frames, how="diagonal").sort("offset")
        parts.append(write_part(log_dir, topic, partition, first, date, frame))
    merged = Commit(
        last=run[-1].range.last,
        parts=parts,
        follows=run[0].commit.follows,
        num_refused=sum(one.commit.num_refused for one in run),
        num_expired=sum(one.commit.num_expired for one in run),
        num_erased=sum(one.commit.num_erased for one in run),
        absent=list(itertools.chain.from_iterable(one.commit.absent for one in run)),
        base=run[0].commit.base,
    )
    replace(log_dir, topic, run, merged)
