"""The event log as its users see it: append records, read them in order, remember how far.

Two implementations pass one contract suite: ``events/kafka.py`` (real) and ``events/memory.py``.

Delivery is at least once. Order holds within a partition. A position is the offset of the *next*
record to read. Whoever keeps state stores positions with the state and calls ``seek``; committed
positions only tell a process without state where to begin and monitoring how far it is behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TopicPartition:
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
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
        """Hand over one record; it may wait in a buffer until ``flush``."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once all records handed over are acknowledged by the log (acks=all).

        Raises:
            ServerError: when one was refused or the time ran out; which were lost is unknown,
                so send the whole batch again (event ids make that harmless).
        """

    def close(self) -> None:
        """Flush and let go of the connection."""


class EventReader(Protocol):
    """Reads assigned partitions in order. Not thread-safe."""

    def assignment(self) -> Sequence[TopicPartition]:
        """Give the partitions this reader owns."""

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Continue from these positions; a partition not named stays where it is."""

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """Give what is there, at most ``max_records``; an empty list after ``timeout_ms``."""

    def positions(self) -> dict[TopicPartition, int]:
        """Give the next offset to read of every assigned partition."""

    def lag(self) -> dict[TopicPartition, int]:
        """Give how many records lie between our position and the end of each partition."""

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Store positions for the group, synchronously."""

    def close(self) -> None:
        """Let go of the connection; nothing is committed implicitly."""
