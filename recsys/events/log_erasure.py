"""Erasure: all rows of a user leave the event log, and their bytes the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from recsys.events.event_log import scan
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


class Until(NamedTuple):
    """The ``forget`` record whose user is erased: what came after it stays."""

    topic: str
    partition: int
    offset: int
    ingest_time_ms: int
    """Bounds what lies in other topics and partitions, of which its offset says nothing."""


def find_forget(log_dir: Path, topic: str, event_id: str, *, start_ms: int) -> Until | None:
    """Give where a ``forget`` record of time ``start_ms`` or later lies; ``None``: nowhere."""
    rows = scan(log_dir, [topic], start_ms=start_ms, kinds=["forget"])
    rows = rows.filter(pl.col("event_id") == event_id).select(Until._fields)
    found = rows.collect(engine="streaming").sort("offset")
    return Until(*found.row(-1)) if len(found) else None


def num_rows_of(log_dir: Path, topic: str, user_id: str, until: Until | None = None) -> Erased:
    """Count what ``erase_user`` would remove.

    Raises:
        ConfigurationError: when a file is damaged.
    """
    num_files = num_rewritten = num_rows = 0
    for one in commits(log_dir, topic):
        for part in one.commit.parts:
            num_files += 1
            mine = _count(log_dir, topic, part, user_id, until)
            num_rewritten += mine > 0
            num_rows += mine
    return Erased(num_files=num_files, num_rewritten=num_rewritten, num_rows=num_rows)


def erase_user(log_dir: Path, topic: str, user_id: str, until: Until | None = None) -> Erased:
    """Remove the user's rows from a topic that has a ``user_id``, but not ``forget`` records.

    With ``until``, what came after that record stays.

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
            rewritten, rows = _erase_from(log_dir, topic, one, user_id, until)
            num_rewritten += rewritten
            num_rows += rows
        # Files of the user that a compaction replaced, or a killed flush or erasure left behind.
        sweep_replaced(log_dir, topic, older_than_s=0.0)
    return Erased(num_files=num_files, num_rewritten=num_rewritten, num_rows=num_rows)


def _count(log_dir: Path, topic: str, part: Part, user_id: str, until: Until | None) -> int:
    """Give the number of the user's rows in a file."""
    path = part_path(log_dir, topic, part)
    try:
        mine = _is_mine(pl.scan_parquet(path, hive_partitioning=False), topic, user_id, until)
        return mine.collect().height
    except (OSError, pl.exceptions.PolarsError):
        frame = read_part(log_dir, topic, part)  # says what is wrong
        return _is_mine(frame.lazy(), topic, user_id, until).collect().height


def _erase_from(
    log_dir: Path, topic: str, one: Committed, user_id: str, until: Until | None
) -> tuple[int, int]:
    """Give the number of files rewritten and of rows removed."""
    parts: list[Part] = []
    replaced: list[Part] = []
    num_erased = 0
    for part in one.commit.parts:
        if _count(log_dir, topic, part, user_id, until) == 0:
            parts.append(part)
            continue
        frame = read_part(log_dir, topic, part)
        mine = _is_mine(frame.lazy(), topic, user_id, until).collect()
        kept = frame.join(mine, on="offset", how="anti")
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


def _is_mine(rows: pl.LazyFrame, topic: str, user_id: str, until: Until | None) -> pl.LazyFrame:
    """Give the offsets of the user's rows."""
    columns = rows.collect_schema()
    mine = pl.col("user_id") == user_id
    if "kind" in columns:
        mine &= pl.col("kind") != "forget"
    if until is not None:
        earlier = pl.col("ingest_time_ms") <= until.ingest_time_ms
        if "now_ms" in columns:  # an answer may wait before it is logged
            earlier |= pl.col("now_ms") <= until.ingest_time_ms
        if topic == until.topic:
            here = pl.col("partition") == until.partition
            earlier = pl.when(here).then(pl.col("offset") < until.offset).otherwise(earlier)
        mine &= earlier
    return rows.filter(mine).select("offset")
