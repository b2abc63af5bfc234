"""Reading the event log back: as a table, as events, and as a proof that nothing is missing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.events.event_columns import SCHEMA, to_events
from recsys.events.log_files import (
    COMMITS,
    Range,
    committed_ranges,
    data_files,
    data_path,
    date_of,
    read_commit,
)
from recsys.events.schema import LoggedEvent


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
    first_date = date_of(start_ms) if start_ms is not None else ""
    last_date = date_of(end_ms - 1) if end_ms is not None else "9999"
    paths: list[Path] = []
    for topic in topics:
        committed = set(committed_ranges(event_log_dir, topic))
        paths += [
            file.path
            for file in data_files(event_log_dir, topic)
            if first_date <= file.date <= last_date and file.range in committed
        ]
    if not paths:
        return pl.LazyFrame(schema=SCHEMA)
    frame = pl.scan_parquet(paths, hive_partitioning=False, schema=SCHEMA, missing_columns="insert")
    if start_ms is not None:
        frame = frame.filter(pl.col("event_time_ms") >= start_ms)
    if end_ms is not None:
        frame = frame.filter(pl.col("event_time_ms") < end_ms)
    if kinds is not None:
        frame = frame.filter(pl.col("kind").is_in(list(kinds)))
    return frame


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


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``verify`` found."""

    num_rows: int
    num_refused: int
    """Records that went to the dead letters."""
    num_leftovers: int
    """Files of killed flushes: they do not count and the next start removes them."""
    problems: list[str]
    """Gaps, overlaps, missing files, wrong counts; empty when all is well."""

    @property
    def is_sound(self) -> bool:
        """Whether each offset up to the last one is there exactly once or accounted for."""
        return not self.problems


def verify(event_log_dir: Path, topics: Sequence[str] | None = None) -> Verification:
    """Prove that the event log has no gap and no duplicate.

    Every partition's ranges must follow on each other; every file of a flush must be there with
    the rows its commit says; every offset of a range must be a row, a refused record or absent
    from the log itself, and absent ones are reported as problems.

    Args:
        event_log_dir: ``Settings.event_log_dir``.
        topics: Full names; ``None`` for all that are there.
    """
    if topics is None:
        topics = sorted(path.parent.name for path in event_log_dir.glob(f"*/{COMMITS}"))
    problems: list[str] = []
    num_rows = num_refused = num_leftovers = 0
    for topic in topics:
        ranges = committed_ranges(event_log_dir, topic)
        problems += _breaks(topic, ranges)
        committed = set(ranges)
        num_leftovers += sum(
            file.range not in committed for file in data_files(event_log_dir, topic)
        )
        for offsets in ranges:
            rows, refused, found = _check_flush(event_log_dir, topic, offsets)
            num_rows += rows
            num_refused += refused
            problems += [f"{topic}[{offsets.partition}] {text}" for text in found]
    return Verification(
        num_rows=num_rows,
        num_refused=num_refused,
        num_leftovers=num_leftovers,
        problems=problems,
    )


def _breaks(topic: str, ranges: list[Range]) -> list[str]:
    """Find where a partition's sorted ranges do not follow on each other."""
    return [
        f"{topic}[{after.partition}] wanted a range from {before.last + 1}, found {after.first}"
        for before, after in itertools.pairwise(ranges)
        if before.partition == after.partition and after.first != before.last + 1
    ]


def _check_flush(log_dir: Path, topic: str, offsets: Range) -> tuple[int, int, list[str]]:
    """Give the rows, the refused records and the problems of one flush."""
    commit = read_commit(log_dir, topic, offsets)
    problems: list[str] = []
    seen: list[pl.Series] = []
    for date, wanted in commit.rows.items():
        path = data_path(log_dir, topic, date, offsets)
        if not path.is_file():
            problems.append(f"wanted {path}, found no such file")
            continue
        found = pl.read_parquet(path, columns=["offset"], hive_partitioning=False)["offset"]
        if len(found) != wanted:
            problems.append(f"wanted {wanted} rows in {path}, found {len(found)}")
        seen.append(found)
    rows = pl.concat(seen) if seen else pl.Series("offset", [], dtype=pl.Int64)
    if rows.n_unique() != len(rows):
        problems.append(f"wanted each offset once, found {len(rows) - rows.n_unique()} twice")
    if len(rows) and not rows.is_between(offsets.first, offsets.last).all():
        problems.append(f"wanted offsets {offsets.first} to {offsets.last}, found others")
    num_absent = sum(last - first + 1 for first, last in commit.absent)
    problems += [f"offsets {first} to {last} were not in the log" for first, last in commit.absent]
    accounted = len(rows) + commit.num_refused + num_absent
    if accounted != offsets.last - offsets.first + 1:
        problems.append(
            f"wanted {offsets.last - offsets.first + 1} offsets from {offsets.first} on, found "
            f"{accounted}"
        )
    return len(rows), commit.num_refused, problems
