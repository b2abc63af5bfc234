"""The event log as its users see it: append records, read them in order, remember how far.

Two implementations pass one contract suite: ``events/kafka.py`` (real) and ``events/memory.py``.

Delivery is at least once. Order holds within a partition. A position is the offset of the *next*
record to read. Whoever keeps state stores positions with the state and calls ``seek``; committed
positions only tell a process without state where to begin and monitoring how far it is behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

# Both are named tuples because millions are made per second of a replay: a frozen dataclass takes
# four times as long to build and to hash.


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    timestamp_ms: int
    """When the log received it (ingest time), not event time."""


class EventWriter(Protocol):
    """Appends records. Thread-safe."""

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Hand over one record; it may wait in a buffer until ``flush``.

        Waits while the buffer is full, so that a slow log slows its writers down.

        Raises:
            ServerError: when the topic is unknown, the record is too big or the buffer stays full.
        """

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once all records handed over are acknowledged by the log (acks=all).

        Raises:
            ServerError: when one was refused or the time ran out; which were lost is unknown,
                so send the whole batch again (event ids make that harmless). Every thread that
                flushes hears of a failure, whoever handed the record over.
        """

    def append_all(
        self, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0
    ) -> None:
        """Hand over ``(topic, key, value)`` records and return once just these are acknowledged.

        Raises:
            ServerError: as ``flush``, but only for these records.
        """

    def close(self) -> None:
        """Flush and let go of the connection."""

    def abandon(self) -> None:
        """Let go at once; what is not acknowledged may or may not arrive. Never raises."""


class EventReader(Protocol):
    """Reads assigned partitions in order. Not thread-safe."""

    def assignment(self) -> Sequence[TopicPartition]:
        """Give the partitions this reader owns."""

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Continue from these positions; a partition not named stays where it is."""

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """Give what is there, at most ``max_records``; an empty list after ``timeout_ms``.

        Raises:
            ServerError: when the log does not answer, or no longer (or not yet) has the position
                we stand at: records were deleted before we read them. ``seek`` to go on.
        """

    def positions(self) -> dict[TopicPartition, int]:
        """Give the next offset to read of every assigned partition."""

    def committed(self) -> dict[TopicPartition, int]:
        """Give the group's stored positions; a partition without one is left out."""

    def lag(self) -> dict[TopicPartition, int]:
        """Give how many records lie between our position and the end of each partition."""

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Give the first offset the log still has of each partition, and its end."""

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Store positions for the group, synchronously."""

    def close(self) -> None:
        """Let go of the connection; nothing is committed implicitly."""


class Changes(NamedTuple):
    """What a reader's share lost and gained. A partition in both was with others in between."""

    lost: list[TopicPartition]
    gained: list[TopicPartition]
    num: int
    """Rebalances that led to it."""


class SharedReader(EventReader, Protocol):
    """Reads a share of the partitions that changes as other readers come and go."""

    def changes(self) -> Changes:
        """Give what changed since the last call. Ask after each ``poll``, before its records.

        A gained partition gives nothing until ``seek`` says from where to read it.
        """

    def keep_alive(self) -> None:
        """Show that we live, and read nothing: call it while waiting for something else."""


class FixedShare:
    """A ``SharedReader`` of a reader whose partitions never change."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._told = False
        self.assignment = reader.assignment
        self.seek = reader.seek
        self.positions = reader.positions
        self.committed = reader.committed
        self.lag = reader.lag
        self.bounds = reader.bounds
        self.commit = reader.commit
        self.close = reader.close

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """See ``EventReader.poll``; nothing before the first ``changes``."""
        if not self._told:
            return []
        return self._reader.poll(timeout_ms=timeout_ms, max_records=max_records)

    def changes(self) -> Changes:
        """Give all partitions as gained, once."""
        gained = [] if self._told else sorted(self._reader.assignment())
        self._told = True
        return Changes([], gained, 0)

    def keep_alive(self) -> None:
        """Nobody takes anything away."""
