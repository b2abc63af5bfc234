"""The event log in Parquet: every record of a topic exactly once, whenever the process is killed.

The sink stores no position anywhere but in the files themselves. On start it looks which ranges
of offsets are committed, throws away what a killed flush left behind, and says where to go on
reading (``positions``). Reading some records twice is harmless: those already written are skipped.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from recsys.errors import ConfigurationError
from recsys.events.durable_files import TEMPORARY_SUFFIX, make_directory, write_durably
from recsys.events.event_columns import to_frame
from recsys.events.log import Record, TopicPartition
from recsys.events.log_files import (
    COMMITS,
    Commit,
    Range,
    commit_path,
    committed_ranges,
    data_files,
    data_path,
    date_of,
    read_commit,
)
from recsys.events.schema import Event

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """When a buffer becomes files."""

    max_rows: int = 50_000
    """Per partition. Larger files read faster; about 1 KB of memory per buffered event."""
    max_bytes: int = 32 * 1024 * 1024
    """Per partition, in bytes of the records."""
    max_age_s: float = 60.0
    """Longest time an event waits; it is safe in the log meanwhile."""


@dataclass(kw_only=True)
class _Buffer:
    """What is read of one partition but not written yet."""

    next_offset: int | None
    """The number after the last committed one; ``None`` before the first record ever."""
    base: int = 0
    """Our number for the log's offset 0, see ``Commit.base``."""
    rows: list[tuple[Record, Event]] = field(default_factory=list)
    absent: list[tuple[int, int]] = field(default_factory=list)
    num_refused: int = 0
    num_bytes: int = 0
    first: int = 0
    last: int = -1
    """Offsets covered by the buffer; empty while ``last < first``."""
    since_s: float = 0.0

    @property
    def is_empty(self) -> bool:
        return self.last < self.first


class EventSink:
    """Writes records of some partitions to the event log. Not thread-safe.

    Only one sink may own a partition: a second one is refused while the first lives.
    """

    def __init__(
        self,
        event_log_dir: Path,
        partitions: Sequence[TopicPartition],
        *,
        config: SinkConfig = SinkConfig(),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take possession of ``partitions`` and clear the leftovers of killed flushes.

        Raises:
            ConfigurationError: when another process owns one, or the folder cannot be written.
        """
        self._dir = event_log_dir
        self._config = config
        self._monotonic_s = monotonic_s
        self._locks: list[int] = []
        self._buffers: dict[TopicPartition, _Buffer] = {}
        try:
            for at in partitions:
                self._lock(at)
            for topic in sorted({at.topic for at in partitions}):
                self._recover(topic, {at.partition for at in partitions if at.topic == topic})
        except OSError as error:
            self._unlock()
            raise self._explained(error, "open the event log") from error
        except BaseException:
            self._unlock()
            raise

    def positions(self) -> dict[TopicPartition, int]:
        """Give the next offset to read of every partition ever written to: all before is on disk.

        A partition without one starts wherever its log starts.
        """
        return {
            at: buffer.next_offset - buffer.base
            for at, buffer in self._buffers.items()
            if buffer.next_offset is not None
        }

    def begin_anew(self, at: TopicPartition) -> None:
        """Take the log's offset 0 for the next record: the broker forgot all there was.

        For a broker that keeps its log in memory and was restarted: what is in the event log stays
        and the new records follow on it.
        """
        buffer = self._buffers[at]
        if not buffer.is_empty:
            self._flush(at, buffer)
            buffer = self._buffers[at]
        buffer.base = buffer.next_offset or 0

    def write(self, records: Iterable[tuple[Record, Event | None]]) -> None:
        """Take records in the order of their offsets; ``None`` for one that is no event.

        Flushes what became due.

        Raises:
            ConfigurationError: as ``flush``.
        """
        now_s = self._monotonic_s()
        for record, event in records:
            self._take(record, event, now_s)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write the buffers that are full or old. Call it also when no records come."""
        now_s = self._monotonic_s()
        for at, buffer in self._buffers.items():
            if not buffer.is_empty and (
                len(buffer.rows) >= self._config.max_rows
                or buffer.num_bytes >= self._config.max_bytes
                or now_s - buffer.since_s >= self._config.max_age_s
            ):
                self._flush(at, buffer)

    def flush(self) -> None:
        """Write everything that is buffered.

        Raises:
            ConfigurationError: when the disk is full or fails. No part of the flush is visible and
                the buffer is kept: call again once there is room.
        """
        for at, buffer in self._buffers.items():
            if not buffer.is_empty:
                self._flush(at, buffer)

    def close(self) -> None:
        """Flush, and let another sink own the partitions."""
        try:
            self.flush()
        finally:
            self._unlock()

    def _take(self, record: Record, event: Event | None, now_s: float) -> None:
        buffer = self._buffers[TopicPartition(record.topic, record.partition)]
        offset = record.offset + buffer.base
        expected = buffer.next_offset if buffer.is_empty else buffer.last + 1
        if expected is None:
            expected = offset
        if offset < expected:
            return  # read again after a restart
        if buffer.is_empty:
            buffer.first = expected
            buffer.since_s = now_s
        if offset > expected:
            buffer.absent.append((expected, offset - 1))
            logger.warning(
                "offsets missing in the log",
                extra={"topic": record.topic, "partition": record.partition, "first": expected,
                       "last": offset - 1},
            )  # fmt: skip
        buffer.last = offset
        if event is None:
            buffer.num_refused += 1
        else:
            if buffer.base:
                record = record._replace(offset=offset)
            buffer.rows.append((record, event))
            buffer.num_bytes += len(record.value)

    def _flush(self, at: TopicPartition, buffer: _Buffer) -> None:
        """Write the files of each date, then the commit that makes them count."""
        offsets = Range(at.partition, buffer.first, buffer.last)
        by_date: dict[str, list[tuple[Record, Event]]] = {}
        for row in buffer.rows:
            by_date.setdefault(date_of(row[1].event_time_ms), []).append(row)
        written: list[Path] = []
        try:
            for date, rows in sorted(by_date.items()):
                path = data_path(self._dir, at.topic, date, offsets)
                make_directory(path.parent)
                data = io.BytesIO()
                to_frame(rows).write_parquet(data, compression="zstd", statistics=True)
                written.append(path)
                write_durably(path, data.getvalue())
            commit = Commit(
                rows={date: len(rows) for date, rows in by_date.items()},
                num_refused=buffer.num_refused,
                absent=buffer.absent,
                base=buffer.base,
            )
            path = commit_path(self._dir, at.topic, offsets)
            make_directory(path.parent)
            written.append(path)
            write_durably(path, msgspec.json.encode(commit))
        except OSError as error:
            # The commit goes first: without it the others do not count.
            for path in reversed(written):
                path.unlink(missing_ok=True)
            raise self._explained(error, f"write {len(buffer.rows)} events of {at}") from error
        self._buffers[at] = _Buffer(next_offset=buffer.last + 1, base=buffer.base)

    def _explained(self, error: OSError, wanted: str) -> ConfigurationError:
        return ConfigurationError(
            f"event log {self._dir}: wanted to {wanted}, found: {error.strerror or error}; free "
            "space or let RECSYS_STATE_DIR name another disk, then try again: nothing is lost, the "
            "records are still in the log"
        )

    def _lock(self, at: TopicPartition) -> None:
        folder = self._dir / at.topic / COMMITS
        make_directory(folder)
        descriptor = os.open(folder / f".lock-{at.partition}", os.O_CREAT | os.O_RDWR, 0o644)
        self._locks.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"event log {self._dir}: wanted to write {at.topic}[{at.partition}] alone, found "
                "another process writing it; stop that one (`recsys status`) or give the workers "
                "different partitions"
            ) from error

    def _unlock(self) -> None:
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()

    def _recover(self, topic: str, partitions: set[int]) -> None:
        """Find where each partition goes on, and remove what never counted."""
        committed = set(committed_ranges(self._dir, topic))
        for partition in partitions:
            own = [offsets for offsets in committed if offsets.partition == partition]
            buffer = _Buffer(next_offset=None)
            if own:
                newest = max(own)
                buffer.next_offset = newest.last + 1
                buffer.base = read_commit(self._dir, topic, newest).base
            self._buffers[TopicPartition(topic, partition)] = buffer
        for file in data_files(self._dir, topic):
            if file.range.partition in partitions and file.range not in committed:
                logger.warning("removed a leftover", extra={"file": str(file.path)})
                file.path.unlink()
        for path in (self._dir / topic).glob(f"*/.*{TEMPORARY_SUFFIX}"):
            # ``.topic-PARTITION-FIRST-LAST.parquet.tmp`` or ``.PARTITION-FIRST-LAST.json.tmp``
            if int(path.name.rsplit("-", 3)[-3].lstrip(".")) in partitions:
                path.unlink()
