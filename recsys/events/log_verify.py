"""The proof that nothing is missing from the event log, and nothing there twice."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.events.log_files import (
    Committed,
    Part,
    commits,
    data_files,
    part_path,
    topics_of,
)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``verify`` found."""

    num_rows: int
    num_refused: int
    """Records that went to the dead letters."""
    num_expired: int
    """Rows that retention removed."""
    num_erased: int
    """Rows of users that were forgotten."""
    num_leftovers: int
    """Files that do not count: of killed flushes, or replaced a while ago."""
    problems: list[str]
    """Gaps, overlaps, missing and damaged files, wrong counts; empty when all is well."""

    @property
    def is_sound(self) -> bool:
        """Whether each offset up to the last one is there exactly once or accounted for."""
        return not self.problems


def verify(
    event_log_dir: Path,
    topics: Sequence[str] | None = None,
    *,
    deep: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verification:
    """Prove that the event log has no gap and no duplicate.

    Every partition's ranges must follow on each other; every file of a commit must be there, of the
    size and with the rows it says; every offset of a range must be a row, a refused record, removed
    on purpose, or absent from Kafka's log itself, and absent ones are reported as problems.

    Args:
        event_log_dir: ``Settings.event_log_dir``.
        topics: Full names; ``None`` for all that are there.
        deep: Read each file whole: its checksum, and its offsets one by one. Without it sizes and
            Parquet's own counts are looked at.
        progress: Told how many commits of how many are done.
    """
    problems: list[str] = []
    rows = refused = expired = erased = leftovers = 0
    names = topics_of(event_log_dir) if topics is None else list(topics)
    by_topic = [(topic, commits(event_log_dir, topic)) for topic in names]
    total, done = sum(len(live) for _, live in by_topic), 0
    for topic, live in by_topic:
        problems += _breaks(topic, live)
        named = {part.place for one in live for part in one.commit.parts}
        leftovers += sum(f.place not in named for f in data_files(event_log_dir, topic))
        for one in live:
            found = _check(event_log_dir, topic, one, deep=deep)
            problems += [f"{topic}[{one.range.partition}] {text}" for text in found]
            rows += sum(part.rows for part in one.commit.parts)
            refused += one.commit.num_refused
            expired += one.commit.num_expired
            erased += one.commit.num_erased
            done += 1
            progress(done, total)
    return Verification(
        num_rows=rows,
        num_refused=refused,
        num_expired=expired,
        num_erased=erased,
        num_leftovers=leftovers,
        problems=problems,
    )


def _breaks(topic: str, live: Sequence[Committed]) -> list[str]:
    """Find where a partition's sorted ranges do not follow on each other."""
    problems = []
    ended: dict[int, int] = {}
    for (partition, first, last), commit in live:
        before = ended.get(partition)
        if before is not None and first != before + 1:
            problems.append(f"{topic}[{partition}] wanted a range from {before + 1}, found {first}")
        if before is None and commit.follows is not None:
            problems.append(
                f"{topic}[{partition}] wanted a range up to {commit.follows}, found that the first "
                f"begins at {first}"
            )
        ended[partition] = last
    return problems


def _check(log_dir: Path, topic: str, one: Committed, *, deep: bool) -> list[str]:
    offsets, commit = one
    problems: list[str] = []
    seen: list[pl.Series] = []
    for part in commit.parts:
        path = part_path(log_dir, topic, part)
        try:
            found = _deep(path, part) if deep else _shallow(path, part)
        except FileNotFoundError:
            problems.append(f"wanted {path}, found no such file")
            continue
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            problems.append(f"wanted a Parquet file at {path}, found: {error}")
            continue
        problems += found.problems
        seen.append(found.offsets)
    num_rows = sum(part.rows for part in commit.parts)
    if deep:
        rows = pl.concat(seen) if seen else _NO_OFFSETS
        if rows.n_unique() != len(rows):
            problems.append(f"wanted each offset once, found {len(rows) - rows.n_unique()} twice")
        if len(rows) and not rows.is_between(offsets.first, offsets.last).all():
            problems.append(f"wanted offsets {offsets.first} to {offsets.last}, found others")
        num_rows = len(rows)
    num_absent = sum(last - first + 1 for first, last in commit.absent)
    problems += [f"offsets {first} to {last} were not in the log" for first, last in commit.absent]
    accounted = num_rows + commit.num_refused + commit.num_expired + commit.num_erased + num_absent
    if accounted != offsets.last - offsets.first + 1:
        problems.append(
            f"wanted {offsets.last - offsets.first + 1} offsets from {offsets.first} on, found "
            f"{accounted}"
        )
    return problems


_NO_OFFSETS = pl.Series("offset", [], dtype=pl.Int64)


@dataclass(frozen=True)
class _Found:
    problems: list[str]
    offsets: pl.Series


def _deep(path: Path, part: Part) -> _Found:
    data = path.read_bytes()
    problems = []
    if len(data) != part.size or zlib.crc32(data) != part.crc32:
        problems.append(f"wanted the bytes that were written to {path}, found others")
    offsets = pl.read_parquet(data, columns=["offset"], hive_partitioning=False)["offset"]
    if len(offsets) != part.rows:
        problems.append(f"wanted {part.rows} rows in {path}, found {len(offsets)}")
    return _Found(problems, offsets)


def _shallow(path: Path, part: Part) -> _Found:
    size = path.stat().st_size
    if size != part.size:
        return _Found([f"wanted {part.size} bytes in {path}, found {size}"], _NO_OFFSETS)
    rows = pq.read_metadata(path).num_rows
    if rows != part.rows:
        return _Found([f"wanted {part.rows} rows in {path}, found {rows}"], _NO_OFFSETS)
    return _Found([], _NO_OFFSETS)
