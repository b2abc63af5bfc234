"""Reading the event log back: as a table and as events. ``log_verify.py`` proves it whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recsys.events.event_columns import EVENTS, to_events
from recsys.events.log_files import commits, date_of, part_path
from recsys.events.log_format import LogFormat
from recsys.events.schema import LoggedEvent


def scan_topics(
    log_dir: Path,
    topics: Sequence[str],
    log_format: LogFormat[Any],
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> pl.LazyFrame:
    """Give the rows of the dates from ``start_ms`` to ``end_ms``, with the format's columns.

    A column that a file does not have yet is null; one that a later version added is left out.
    """
    first_date = date_of(start_ms) if start_ms is not None else ""
    last_date = date_of(end_ms - 1) if end_ms is not None else "9999"
    parts = [
        (part.date, topic, one.range, part)
        for topic in topics
        for one in commits(log_dir, topic)
        for part in one.commit.parts
        if first_date <= part.date <= last_date
    ]
    parts.sort(key=lambda entry: entry[:3])
    schema = dict(log_format.schema)
    if not parts:
        return pl.LazyFrame(schema=schema)
    return pl.scan_parquet(
        [part_path(log_dir, topic, part) for _, topic, _, part in parts],
        hive_partitioning=False,
        schema=schema,
        missing_columns="insert",
        extra_columns="ignore",
    )


def scan(
    event_log_dir: Path,
    topics: Sequence[str],
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    kinds: Collection[str] | None = None,
) -> pl.LazyFrame:
    """Give the events of ``topics`` as a lazy table with the columns of ``event_columns.SCHEMA``.

    Only finished flushes count. Rows come by date, partition and offset; sort by ``event_time_ms``
    where that order matters. The same ``event_id`` may appear twice when a sender sent it twice.

    Args:
        event_log_dir: ``Settings.event_log_dir``.
        topics: Full names; one that was never written is empty.
        start_ms: First event time. Files of earlier dates are not opened.
        end_ms: Event time to stop before. Files of later dates are not opened.
        kinds: Kinds of events, see ``schema.EVENT_KINDS``.
    """
    frame = scan_topics(event_log_dir, topics, EVENTS, start_ms=start_ms, end_ms=end_ms)
    if start_ms is not None:
        frame = frame.filter(pl.col("event_time_ms") >= start_ms)
    if end_ms is not None:
        frame = frame.filter(pl.col("event_time_ms") < end_ms)
    if kinds is not None:
        frame = frame.filter(pl.col("kind").is_in(list(kinds)))
    return frame


def before(positions: Mapping[str, int]) -> pl.Expr:
    """Give the condition that a row of the log lies before ``positions``.

    Args:
        positions: ``topic:partition`` to the first offset that does not count any more; of a
            partition that is not named nothing counts.
    """
    inside = pl.lit(value=False)
    for name, position in positions.items():
        topic, _, partition = name.rpartition(":")
        inside = inside | (
            (pl.col("topic") == topic)
            & (pl.col("partition") == int(partition))
            & (pl.col("offset") < position)
        )
    return inside


def iter_logged_events(
    event_log_dir: Path,
    topics: Sequence[str],
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    kinds: Collection[str] | None = None,
) -> Iterator[LoggedEvent]:
    """Give the events of the log in order of event time (ties: by topic, partition and offset)."""
    frame = scan(event_log_dir, topics, start_ms=start_ms, end_ms=end_ms, kinds=kinds)
    order = ["event_time_ms", "topic", "partition", "offset"]
    for part in frame.sort(order).collect().iter_slices(16_384):
        yield from to_events(part)
