"""Erasure: all rows of a user leave the event log, and their bytes the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from recsys.events.log_files import Committed, Part, commits, part_path
from recsys.events.log_rewrite import read_part, replace, rewriting, write_part
from recsys.events.log_sweep import sweep_replaced


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What was searched and removed in a topic."""

    num_files: int
    """Files looked into: all that count."""
    num_rewritten: int
    """Files that held rows of the user."""
    num_rows: int
    """Rows removed."""


def erase_user(log_dir: Path, topic: str, user_id: str) -> Erased:
    """Remove the user's rows from a topic that has a ``user_id``, but not ``forget`` records.

    A ``forget`` record says that there is nothing to know: without it, a replay of older records
    that are still in Kafka would bring the user back. Files that held rows of the user are gone
    from the disk when this returns, also for those who read them right now. Killed anywhere, run it
    again: what was done is found done.

    Raises:
        ConfigurationError: when another rewriter works on the topic, or a file is damaged.
    """
    num_files = num_rewritten = num_rows = 0
    with rewriting(log_dir, topic):
        for one in commits(log_dir, topic):
            num_files += len(one.commit.parts)
            rewritten, rows = _erase_from(log_dir, topic, one, user_id)
            num_rewritten += rewritten
            num_rows += rows
        # Files of the user that a compaction replaced, or a killed flush or erasure left behind.
        sweep_replaced(log_dir, topic, older_than_s=0.0)
    return Erased(num_files=num_files, num_rewritten=num_rewritten, num_rows=num_rows)


def _erase_from(log_dir: Path, topic: str, one: Committed, user_id: str) -> tuple[int, int]:
    """Give the number of files rewritten and of rows removed."""
    parts: list[Part] = []
    replaced: list[Part] = []
    num_erased = 0
    for part in one.commit.parts:
        path = part_path(log_dir, topic, part)
        try:
            mine = _is_mine(pl.scan_parquet(path, hive_partitioning=False), user_id)
            is_clean = not mine.limit(1).collect().height
        except (OSError, pl.exceptions.PolarsError):
            is_clean = False  # read_part says what is wrong
        if is_clean:
            parts.append(part)
            continue
        frame = read_part(log_dir, topic, part)
        kept = frame.join(_is_mine(frame.lazy(), user_id).collect(), on="offset", how="anti")
        kept = kept.sort("offset")
        num_erased += len(frame) - len(kept)
        replaced.append(part)
        if len(kept):
            partition, first, _ = one.range
            parts.append(write_part(log_dir, topic, partition, first, part.date, kept))
    if replaced:
        commit = msgspec.structs.replace(
            one.commit, parts=parts, num_erased=one.commit.num_erased + num_erased
        )
        replace(log_dir, topic, [one], commit)
        for part in replaced:
            part_path(log_dir, topic, part).unlink(missing_ok=True)
    return len(replaced), num_erased


def _is_mine(rows: pl.LazyFrame, user_id: str) -> pl.LazyFrame:
    """Give the offsets of the user's rows."""
    mine = pl.col("user_id") == user_id
    if "kind" in rows.collect_schema():
        mine &= pl.col("kind") != "forget"
    return rows.filter(mine).select("offset")
