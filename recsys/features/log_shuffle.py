"""The event log laid out by entity on disk, so that a part of all entities fits into memory.

The log is read once, some commits at a time, in the order of offsets of each partition, duplicates
left out as the stream leaves them out. Its rows are written twice, by hash of their user and by
hash of their item, into ``<folder>/<side>/<part>/<batch>.arrow``; read back, batch after batch,
each part is the log again, but of some entities only. What a kill leaves behind is overwritten.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from recsys.events.event_columns import SCHEMA
from recsys.events.log import TopicPartition
from recsys.events.log_files import Committed, commits, part_path
from recsys.events.topics import Topics
from recsys.features.duplicates import HORIZON
from recsys.features.forgotten import forget_records, without_forgotten
from recsys.features.frame_columns import LOG_COLUMNS, rows_of_frame
from recsys.features.log_rows import without_duplicates
from recsys.features.positions import ITEM_SOURCES

Side = Literal["item", "user"]
SIDES: tuple[Side, ...] = ("item", "user")
"""Items first: their categories are asked for when users are told."""
BATCH_EVENTS = 500_000
"""Events read in one step, some 300 MB; one greater commit is read whole."""
Rows = tuple[pl.DataFrame, pl.DataFrame]
"""Behaviour, and events of users and items (``frame_columns.py``)."""


@dataclass(frozen=True, kw_only=True)
class LogSpan:
    """The event log up to an end."""

    event_log_dir: Path
    topics: Topics
    ends: Mapping[TopicPartition, int]
    """First record of each partition that does not belong to it, in the event log's numbers."""

    def num_events(self) -> int:
        """Give how many events its files hold; those after the ends, too."""
        return sum(
            part.rows
            for topic in (self.topics.items, self.topics.behaviour)
            for one in commits(self.event_log_dir, topic)
            for part in one.commit.parts
        )

    def frames(self) -> Iterator[tuple[pl.DataFrame, int]]:
        """Give the events with ``LOG_COLUMNS``, and the number of their topic's first source.

        Items first, then behaviour; each partition in the order of its offsets.
        """
        for topic, base in ((self.topics.items, ITEM_SOURCES), (self.topics.behaviour, 0)):
            for partition, group in _groups(commits(self.event_log_dir, topic)):
                end = self.ends.get(TopicPartition(topic, partition), 0)
                yield from ((f, base) for f in self._frames_of_partition(topic, group, end))

    def _frames_of_partition(
        self, topic: str, group: list[Committed], end: int
    ) -> Iterator[pl.DataFrame]:
        forgets = self._forgets(topic, group, end)
        before: pl.DataFrame | None = None
        for some in _some(group):
            frame = self._scan(topic, some, end).select(LOG_COLUMNS).collect().sort("offset")
            if frame.is_empty():
                continue
            first = frame["offset"][0]
            # What lies shortly before may be a duplicate's first half.
            joined = frame if before is None else pl.concat([before, frame])
            told = without_duplicates(joined).filter(pl.col("offset") >= first)
            yield without_forgotten(told, forgets)
            before = joined.filter(pl.col("offset") > frame["offset"][-1] - HORIZON - 1)

    def _forgets(self, topic: str, group: list[Committed], end: int) -> pl.DataFrame:
        """Give who was forgotten in a partition: the record lies behind what it erases."""
        return forget_records(self._scan(topic, group, end)).collect(engine="streaming")

    def _scan(self, topic: str, some: list[Committed], end: int) -> pl.LazyFrame:
        paths = [part_path(self.event_log_dir, topic, p) for one in some for p in one.commit.parts]
        if not paths:
            return pl.LazyFrame(schema=SCHEMA)
        read = pl.scan_parquet(
            paths,
            hive_partitioning=False,
            schema=SCHEMA,
            missing_columns="insert",
            extra_columns="ignore",
        )
        return read.filter(pl.col("offset") < end)


def _groups(all_commits: list[Committed]) -> Iterator[tuple[int, list[Committed]]]:
    partitions: dict[int, list[Committed]] = {}
    for one in all_commits:
        partitions.setdefault(one.range.partition, []).append(one)
    yield from partitions.items()


def _some(group: list[Committed]) -> Iterator[list[Committed]]:
    """Cut commits into runs of at most ``BATCH_EVENTS``, where single ones are no larger."""
    some: list[Committed] = []
    num = 0
    for one in group:
        rows = sum(part.rows for part in one.commit.parts)
        if some and num + rows > BATCH_EVENTS:
            yield some
            some, num = [], 0
        some.append(one)
        num += rows
    if some:
        yield some


def shuffle(
    span: LogSpan, folder: Path, num_parts: int, told: Callable[[int], None] = lambda _n: None
) -> int:
    """Lay the log out under ``folder``; gives the number of events. ``told`` hears of progress."""
    for side in SIDES:
        shutil.rmtree(folder / side, ignore_errors=True)
        for part in range(num_parts):
            (folder / side / str(part)).mkdir(parents=True)
    num_events = 0
    for batch, (frame, base) in enumerate(span.frames()):
        behaviour, events = rows_of_frame(frame, base)
        for side in SIDES:
            owner = f"{side}_id"
            mine = events.filter(pl.col("kind") == side)
            for kind, rows in (("rows", behaviour), ("told", mine)):
                for part, some in _parted(rows, owner, num_parts):
                    name = f"{batch:08d}.{kind}.arrow"
                    some.write_ipc(folder / side / str(part) / name)
        num_events += len(frame)
        told(num_events)
    return num_events


def _parted(rows: pl.DataFrame, owner: str, num_parts: int) -> Iterator[tuple[int, pl.DataFrame]]:
    if rows.is_empty():
        return
    if num_parts == 1:
        yield 0, rows
        return
    part = (rows[owner].hash(seed=0) % num_parts).cast(pl.Int64).alias("part")
    for (number,), some in rows.with_columns(part).group_by("part", maintain_order=True):
        yield int(number), some.drop("part")


def batches(folder: Path, side: Side, part: int) -> Iterator[Rows]:
    """Give the log of the entities of one part again, some ``BATCH_EVENTS`` rows at a time."""
    names: dict[str, dict[str, Path]] = {}
    for path in (folder / side / str(part)).iterdir():
        batch, kind, _ = path.name.split(".")
        names.setdefault(batch, {})[kind] = path
    taken: list[Rows] = []
    num = 0
    for _, paths in sorted(names.items()):
        rows, told = (
            pl.read_ipc(paths[kind]) if kind in paths else nothing
            for kind, nothing in (("rows", _NO_ROWS), ("told", _NO_TOLD))
        )
        taken.append((rows, told))
        num += len(rows) + len(told)
        if num >= BATCH_EVENTS:
            yield _joined(taken)
            taken, num = [], 0
    if taken:
        yield _joined(taken)


def _joined(taken: list[Rows]) -> Rows:
    return pl.concat([rows for rows, _ in taken]), pl.concat([told for _, told in taken])


_NO_ROWS, _NO_TOLD = rows_of_frame(
    pl.DataFrame(schema={name: SCHEMA[name] for name in LOG_COLUMNS}), 0
)
