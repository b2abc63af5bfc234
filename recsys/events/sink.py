"""The event log in Parquet: every record of a topic exactly once, whenever the process is killed.

The sink stores no position anywhere but in the files themselves. On start it looks which ranges
of offsets are committed and says where to go on reading (``positions``). Reading some records twice
is harmless: those already written are skipped. So is another sink of the same partition that still
writes (a process that slept, a machine that was cut off): a range is committed once, and whoever
comes second is refused (``log_files.py``).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from recsys.errors import ConfigurationError
from recsys.events.durable_files import create_durably, make_directory, write_durably
from recsys.events.event_columns import EVENTS
from recsys.events.log import Record, TopicPartition
from recsys.events.log_files import (
    Commit,
    Part,
    commit_path,
    covers,
    ends,
    part_name,
    part_path,
)
from recsys.events.log_format import LogFormat, parquet_of
from recsys.events.log_sweep import sweep_beyond
from recsys.events.schema import LoggedEvent
from recsys.events.sink_buffer import SinkBuffer
from recsys.events.sink_locks import PartitionLocks

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CLOCK_SKEW_S = 300.0
"""How far the clocks of machines that share a disk may be apart."""


class CommitRefusedError(ConfigurationError):
    """Another sink wrote the range this one was about to write: begin again after it."""


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """When a buffer becomes files."""

    max_rows: int = 50_000
    """Per partition. Larger files read faster."""
    chunk_rows: int = 4_000
    """Records that are turned into columns together, some 12 ms: all of a file's at once would keep
    whoever writes here waiting for 150 ms."""
    max_bytes: int = 32 * 1024 * 1024
    """Per partition, in bytes of the records."""
    max_age_s: float = 60.0
    """Longest time an event waits; it is safe in the log meanwhile."""
    leftover_age_s: float = 900.0
    """Files that nothing committed are removed at start when they are older: another machine may
    be about to commit younger ones."""


class LogSink(Generic[T]):
    """Writes decoded records of some partitions to the Parquet log. Not thread-safe.

    Only one sink of a machine may own a partition: a second one is refused while the first lives.
    """

    def __init__(
        self,
        event_log_dir: Path,
        partitions: Sequence[TopicPartition],
        log_format: LogFormat[T],
        *,
        config: SinkConfig = SinkConfig(),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take possession of ``partitions`` and clear the leftovers of killed flushes.

        Raises:
            ConfigurationError: when another process owns one, or the folder cannot be written.
        """
        self._dir = event_log_dir
        self._format = log_format
        self._config = config
        self._monotonic_s = monotonic_s
        self._locks = PartitionLocks(event_log_dir)
        self._looked_s = dict.fromkeys(partitions, time.time())
        """When all commits of a partition were last looked at."""
        self._buffers: dict[TopicPartition, SinkBuffer[T]] = {}
        try:
            for at in partitions:
                self._locks.take(at)
            for topic in sorted({at.topic for at in partitions}):
                self._recover(topic, {at.partition for at in partitions if at.topic == topic})
        except OSError as error:
            self._locks.let_go()
            raise self._explained(error, "open the event log") from error
        except BaseException:
            self._locks.let_go()
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

    def write(self, records: Iterable[tuple[Record, T | None]]) -> None:
        """Take records in the order of their offsets; ``None`` for one that is no event.

        Flushes what became due.

        Raises:
            ConfigurationError: as ``flush``.
        """
        for (topic, partition), some in groupby(records, key=lambda pair: pair[0][:2]):
            pairs = list(some)
            taken, values = [record for record, _ in pairs], [value for _, value in pairs]
            self.write_run(TopicPartition(topic, partition), taken, values)
        self.flush_if_due()

    def write_run(
        self, at: TopicPartition, records: Sequence[Record], values: Sequence[T | None]
    ) -> None:
        """Take records of one partition; call ``flush_if_due`` after some."""
        self._buffers[at].take(
            records, values, chunk_rows=self._config.chunk_rows, now_s=self._monotonic_s()
        )

    def flush_if_due(self) -> bool:
        """Write the buffers that are full or old; says whether there were any.

        Call it also when no records come.
        """
        now_s = self._monotonic_s()
        due = False
        for at, buffer in self._buffers.items():
            if not buffer.is_empty and (
                buffer.num_rows >= self._config.max_rows
                or buffer.num_bytes >= self._config.max_bytes
                or now_s - buffer.since_s >= self._config.max_age_s
            ):
                due = True
                self._flush(at, buffer)
        return due

    def flush(self) -> None:
        """Write everything that is buffered.

        Raises:
            ConfigurationError: when the disk is full or fails. No part of the flush is visible and
                the buffer is kept: call again once there is room.
            CommitRefusedError: when another process wrote this range. Open the sink anew.
        """
        for at, buffer in self._buffers.items():
            if not buffer.is_empty:
                self._flush(at, buffer)

    def close(self) -> None:
        """Flush, and let another sink own the partitions."""
        try:
            self.flush()
        finally:
            self._locks.let_go()

    def abandon(self) -> None:
        """Drop what is buffered and let another sink own the partitions: they read it again."""
        self._buffers.clear()
        self._locks.let_go()

    def _flush(self, at: TopicPartition, buffer: SinkBuffer[T]) -> None:
        """Write the files of each date, then the commit that makes them count."""
        token = uuid.uuid4().hex[:12]
        name = part_name(at.topic, at.partition, buffer.first, token)
        written: list[Path] = []
        parts: list[Part] = []
        committed: Path | None = None
        try:
            for date, rows in buffer.by_date():
                data = parquet_of(rows)
                part = Part.of(data, date=date, name=name, rows=len(rows))
                path = part_path(self._dir, at.topic, part)
                make_directory(path.parent)
                written.append(path)
                parts.append(part)
                write_durably(path, data)
            commit = Commit(
                last=buffer.last,
                parts=parts,
                follows=None if buffer.is_first else buffer.first - 1,
                num_refused=buffer.num_refused,
                absent=buffer.absent,
                base=buffer.base,
            )
            path = commit_path(self._dir, at.topic, at.partition, buffer.first)
            make_directory(path.parent)
            create_durably(path, msgspec.json.encode(commit))
            committed = path
            # A name that a compaction freed can be taken again, and what lies uncommitted for long
            # is swept: whoever slept that long finds out here, and takes the commit back.
            for part_file in written:
                part_file.stat()
            begun_s = time.time()
            if covers(
                self._dir, at.topic, at.partition, buffer.first,
                since_s=self._looked_s[at] - _CLOCK_SKEW_S,
            ):  # fmt: skip
                raise FileExistsError
            self._looked_s[at] = begun_s
        except OSError as error:
            if committed is not None:
                committed.unlink(missing_ok=True)
            for path in written:
                path.unlink(missing_ok=True)
            if isinstance(error, FileExistsError | FileNotFoundError):
                raise CommitRefusedError(
                    f"event log {self._dir}: wanted to commit {at.topic}[{at.partition}] from "
                    f"{buffer.first} on, found that another process did; this one must begin after"
                ) from error
            raise self._explained(error, f"write {buffer.num_rows} events of {at}") from error
        self._buffers[at] = SinkBuffer(
            at=at, log_format=self._format, next_offset=buffer.last + 1, is_first=False,
            base=buffer.base,
        )  # fmt: skip

    def _explained(self, error: OSError, wanted: str) -> ConfigurationError:
        return ConfigurationError(
            f"event log {self._dir}: wanted to {wanted}, found: {error.strerror or error}; free "
            "space or let RECSYS_STATE_DIR name another disk, then try again: nothing is lost, the "
            "records are still in the log"
        )

    def _recover(self, topic: str, partitions: set[int]) -> None:
        """Find where each partition goes on, and remove what never counted."""
        last = ends(self._dir, topic)
        for partition in partitions:
            at = TopicPartition(topic, partition)
            buffer = SinkBuffer(
                at=at, log_format=self._format, next_offset=None, is_first=partition not in last
            )
            if partition in last:
                buffer.next_offset = last[partition].range.last + 1
                buffer.base = last[partition].commit.base
            self._buffers[at] = buffer
        sweep_beyond(self._dir, topic, partitions, older_than_s=self._config.leftover_age_s)


class EventSink(LogSink[LoggedEvent]):
    """The sink of items and behaviour."""

    def __init__(
        self,
        event_log_dir: Path,
        partitions: Sequence[TopicPartition],
        *,
        config: SinkConfig = SinkConfig(),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """See ``LogSink``."""
        super().__init__(event_log_dir, partitions, EVENTS, config=config, monotonic_s=monotonic_s)
