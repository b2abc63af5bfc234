"""The event log in the memory of one process, for unit tests and dry runs.

It passes the same contract suite as ``events/kafka``: partitions by the same key hash, offsets from
0, positions committed per group. Nothing is lost or out of order here unless a test asks for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from recsys.clock import Clock, now_ms
from recsys.errors import ServerError
from recsys.events.log import Record, TopicPartition
from recsys.events.partitioning import partition_of


class MemoryEventLog:
    """Topics of one imagined cluster. Thread-safe."""

    def __init__(self, *, num_partitions: int = 4, clock: Clock = now_ms) -> None:
        self._num_partitions = num_partitions
        self._clock = clock
        self._records: dict[TopicPartition, list[Record]] = {}
        self._committed: dict[str, dict[TopicPartition, int]] = {}
        self._changed = threading.Condition()

    def ensure_topics(self, topics: Iterable[str]) -> None:
        """Create the topics that do not exist yet."""
        with self._changed:
            for topic in topics:
                for partition in range(self._num_partitions):
                    self._records.setdefault(TopicPartition(topic, partition), [])

    def writer(self) -> MemoryEventWriter:
        """Give a writer to all topics."""
        return MemoryEventWriter(self)

    def reader(
        self,
        *,
        topics: Sequence[str],
        group: str,
        partitions: Sequence[TopicPartition] | None = None,
    ) -> MemoryEventReader:
        """Give a reader that starts where ``group`` committed, else at the beginning.

        Args:
            topics: Read when ``partitions`` is ``None``: all their partitions.
            group: Under which name positions are stored.
            partitions: The share of this reader.
        """
        if partitions is None:
            partitions = [
                TopicPartition(topic, partition)
                for topic in topics
                for partition in range(self._num_partitions)
            ]
        for partition_ in partitions:
            self._of(partition_)
        return MemoryEventReader(self, tuple(partitions), group)

    def latest_positions(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """Give the offset the next record of each partition will get."""
        wanted = set(topics)
        with self._changed:
            return {at: len(log) for at, log in self._records.items() if at.topic in wanted}

    def _of(self, at: TopicPartition) -> list[Record]:
        log = self._records.get(at)
        if log is None:
            raise ServerError(
                f"topic {at.topic!r} has no partition {at.partition} here; call ensure_topics first"
            )
        return log

    def _append(self, topic: str, key: bytes, value: bytes) -> None:
        at = TopicPartition(topic, partition_of(key, self._num_partitions))
        with self._changed:
            log = self._of(at)
            log.append(Record(topic, at.partition, len(log), key, value, self._clock()))
            self._changed.notify_all()


class MemoryEventWriter:
    """Appends at once; see ``EventWriter``."""

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self._closed = False

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        """See ``EventWriter.append``."""
        if self._closed:
            raise ServerError("this event writer is closed; connect another")
        self._log._append(topic, key, value)

    def append_all(
        self, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0
    ) -> None:
        """See ``EventWriter.append_all``."""
        for topic, key, value in records:
            self.append(topic, key, value)

    def flush(self, timeout_s: float = 30.0) -> None:
        """See ``EventWriter.flush``: everything is acknowledged already."""

    def close(self) -> None:
        """See ``EventWriter.close``."""
        self._closed = True

    def abandon(self) -> None:
        """See ``EventWriter.abandon``."""
        self._closed = True


class MemoryEventReader:
    """Reads from the lists; see ``EventReader``."""

    def __init__(
        self, log: MemoryEventLog, partitions: tuple[TopicPartition, ...], group: str
    ) -> None:
        self._log = log
        self._partitions = partitions
        self._group = group
        committed = self.committed()
        self._positions = {at: committed.get(at, 0) for at in partitions}
        self._closed = False

    def assignment(self) -> Sequence[TopicPartition]:
        """See ``EventReader.assignment``."""
        return self._partitions

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``EventReader.seek``."""
        for at, offset in positions.items():
            if at not in self._positions:
                raise ServerError(f"{at} is not assigned to this reader ({self._partitions})")
            self._positions[at] = offset

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """See ``EventReader.poll``."""
        if self._closed:
            raise ServerError("this event reader is closed; connect another")
        deadline = time.monotonic() + timeout_ms / 1000
        with self._log._changed:
            while True:
                taken = self._take(max_records)
                left_s = deadline - time.monotonic()
                if taken or left_s <= 0:
                    return taken
                self._log._changed.wait(left_s)

    def _take(self, max_records: int) -> list[Record]:
        taken: list[Record] = []
        for at in self._partitions:
            log = self._log._of(at)
            begin = self._positions[at]
            if begin > len(log):
                raise ServerError(
                    f"{at.topic}[{at.partition}]: wanted to read from offset {begin}, found "
                    f"offsets 0 to {len(log)}; seek to one of these"
                )
            part = log[begin : begin + max_records - len(taken)]
            self._positions[at] += len(part)
            taken += part
        return taken

    def positions(self) -> dict[TopicPartition, int]:
        """See ``EventReader.positions``."""
        return dict(self._positions)

    def committed(self) -> dict[TopicPartition, int]:
        """See ``EventReader.committed``."""
        with self._log._changed:
            stored = self._log._committed.get(self._group, {})
            return {at: stored[at] for at in self._partitions if at in stored}

    def lag(self) -> dict[TopicPartition, int]:
        """See ``EventReader.lag``."""
        with self._log._changed:
            return {at: len(self._log._of(at)) - self._positions[at] for at in self._partitions}

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """See ``EventReader.bounds``: nothing is ever deleted."""
        with self._log._changed:
            return {at: (0, len(self._log._of(at))) for at in partitions}

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``EventReader.commit``."""
        with self._log._changed:
            self._log._committed.setdefault(self._group, {}).update(positions)

    def close(self) -> None:
        """See ``EventReader.close``."""
        self._closed = True
