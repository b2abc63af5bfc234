"""What a sink has read of one partition and not written yet: records, and columns made of them."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.clock import DAY_MS
from recsys.events.log import Record, TopicPartition
from recsys.events.log_files import date_of
from recsys.events.log_format import LogFormat

logger = logging.getLogger(__name__)

T = TypeVar("T")

_offset_of = attrgetter("offset")
_value_of = attrgetter("value")


@dataclass(kw_only=True)
class SinkBuffer(Generic[T]):
    """What is read of one partition but not written yet."""

    at: TopicPartition
    log_format: LogFormat[T]
    next_offset: int | None
    """The number after the last committed one; ``None`` before the first record ever."""
    is_first: bool
    """Whether the partition was never committed before."""
    base: int = 0
    """Our number for the log's offset 0, see ``Commit.base``."""
    chunks: list[tuple[pl.DataFrame, NDArray[np.int64]]] = field(default_factory=list)
    """Rows, and the day each is filed under."""
    records: list[Record] = field(default_factory=list)
    """Those that are not in a chunk yet."""
    values: list[T] = field(default_factory=list)
    """Of the records, each decoded."""
    absent: list[tuple[int, int]] = field(default_factory=list)
    num_refused: int = 0
    num_bytes: int = 0
    first: int = 0
    last: int = -1
    """Offsets covered by the buffer; empty while ``last < first``."""
    since_s: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.last < self.first

    @property
    def num_rows(self) -> int:
        """Events among what is buffered."""
        return len(self.records) + sum(len(frame) for frame, _ in self.chunks)

    def take(
        self, records: Sequence[Record], values: Sequence[T | None], *,
        chunk_rows: int, now_s: float,
    ) -> None:  # fmt: skip
        """Take records in the order of their offsets; ``None`` for one that is no event.

        Those written already are skipped. Every ``chunk_rows`` become columns together.
        """
        if self.base:
            records = [one._replace(offset=one.offset + self.base) for one in records]
        expected = self.next_offset if self.is_empty else self.last + 1
        if expected is not None and records and records[0].offset < expected:
            begin = bisect_left(records, expected, key=_offset_of)  # read again after a restart
            records, values = records[begin:], values[begin:]
        if not records:
            return
        if expected is None:
            expected = records[0].offset
        if self.is_empty:
            self.first = expected
            self.since_s = now_s
        if records[-1].offset - expected + 1 != len(records):
            for offset in map(_offset_of, records):
                if offset > expected:
                    self._miss(expected, offset - 1)
                expected = offset + 1
        self.last = records[-1].offset
        events: list[T] = [value for value in values if value is not None]
        if len(events) < len(values):
            self.num_refused += len(values) - len(events)
            records = [one for one, value in zip(records, values, strict=True) if value is not None]
        self.records += records
        self.values += events
        self.num_bytes += sum(map(len, map(_value_of, records)))
        if len(self.records) >= chunk_rows:
            self._chunk()

    def by_date(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Give the rows by the date they are filed under, in order."""
        self._chunk()
        if not self.chunks:
            return
        rows = pl.concat([frame for frame, _ in self.chunks])
        days = np.concatenate([some for _, some in self.chunks])
        every = np.unique(days).tolist()
        for day in every:
            mine = rows if len(every) == 1 else rows.filter(pl.Series(days == day))
            yield date_of(day * DAY_MS), mine

    def _chunk(self) -> None:
        if self.records:
            times_ms = np.fromiter(map(self.log_format.time_ms, self.values), dtype=np.int64)
            frame = self.log_format.frame_of(self.records, self.values)
            self.chunks.append((frame, times_ms // DAY_MS))
            self.records, self.values = [], []

    def _miss(self, first: int, last: int) -> None:
        self.absent.append((first, last))
        logger.warning(
            "offsets missing in the log",
            extra={
                "topic": self.at.topic, "partition": self.at.partition,
                "first": first, "last": last,
            },
        )  # fmt: skip
