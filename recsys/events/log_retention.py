"""Retention: whole dates leave the event log; that they were there stays on record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from recsys.events.log_files import commits
from recsys.events.log_rewrite import replace, rewriting
from recsys.events.log_sweep import READER_GRACE_S, sweep_replaced


@dataclass(frozen=True, kw_only=True)
class Expired:
    """What was removed from a topic."""

    num_files: int
    num_rows: int
    num_bytes: int


def expire(
    log_dir: Path,
    topic: str,
    *,
    before: str,
    dry_run: bool = False,
    grace_s: float = READER_GRACE_S,
) -> Expired:
    """Remove the files of dates before ``before`` (``2011-11-09``, UTC, of the event time).

    The commits keep count of the rows, so that ``verify`` tells an expired row from a lost one.
    Files stay on disk for ``grace_s`` for those who read them now.

    Raises:
        ConfigurationError: when another rewriter works on the topic.
    """
    num_files = num_rows = num_bytes = 0
    with rewriting(log_dir, topic):
        for one in commits(log_dir, topic):
            old = [part for part in one.commit.parts if part.date < before]
            if not old:
                continue
            rows = sum(part.rows for part in old)
            num_files += len(old)
            num_rows += rows
            num_bytes += sum(part.size for part in old)
            if not dry_run:
                kept = msgspec.structs.replace(
                    one.commit,
                    parts=[part for part in one.commit.parts if part.date >= before],
                    num_expired=one.commit.num_expired + rows,
                )
                replace(log_dir, topic, [one], kept)
        if not dry_run:
            sweep_replaced(log_dir, topic, older_than_s=grace_s)
    return Expired(num_files=num_files, num_rows=num_rows, num_bytes=num_bytes)
