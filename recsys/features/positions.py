"""How far a view of an entity has been told: the log positions its state carries.

A record at or behind its position was applied before and is skipped, which turns delivery at least
once into an effect exactly once: a view's state, features and positions are written in one step, so
wherever a process dies, the next one continues from what was written. Each view has its own, so
that one that is made anew from the log does not disturb the others.

A source is one partition of the behaviour topic (its number) or of the item topic (its number
with the high bit set).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.events.topics import Topics
from recsys.features.batch import Bools, Int64s

ITEM_SOURCES = 0x8000
"""Added to a partition of the item topic."""
_OFFSET_BITS = 48
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class Sources(dict[tuple[str, int], int]):
    """Numbers the partitions of the two topics."""

    def __init__(self, topics: Topics) -> None:
        super().__init__()
        self._bases = {topics.behaviour: 0, topics.items: ITEM_SOURCES}

    def __missing__(self, at: tuple[str, int]) -> int:
        self[at] = self._bases[at[0]] + at[1]
        return self[at]


def next_offsets(blob: bytes, topics: Topics) -> dict[tuple[str, int], int]:
    """Give what one view of one entity was told: (topic, partition) to the first offset after."""
    words = np.frombuffer(blob, dtype="<u8")
    told: dict[tuple[str, int], int] = {}
    for word in words.tolist():
        source = word >> _OFFSET_BITS
        topic = topics.items if source & ITEM_SOURCES else topics.behaviour
        told[topic, source & ~ITEM_SOURCES] = word & _OFFSET_MASK
    return told


class Positions:
    """Positions of one view of many entities while a batch is applied to them."""

    def __init__(self, blobs: Sequence[bytes], sources: Int64s) -> None:
        """Decode the positions of entities ``0 … len(blobs) - 1``; batch from ``sources``."""
        lengths = np.fromiter(map(len, blobs), np.int64, len(blobs)) // 8
        stored = np.frombuffer(b"".join(blobs), dtype="<u8")
        owner = np.repeat(np.arange(len(blobs)), lengths)
        source = (stored >> np.uint64(_OFFSET_BITS)).astype(np.int64)
        present = np.bincount(np.concatenate([sources, source])) > 0
        self._sources = np.flatnonzero(present)
        self._column = np.cumsum(present) - 1
        """Of each source, its place in ``_sources``."""
        self._next = np.zeros((len(blobs), len(self._sources)), dtype=np.int64)
        offset = (stored & np.uint64(_OFFSET_MASK)).astype(np.int64)
        self._next[owner, self._column[source]] = offset

    def fresh(self, owner: Int64s, source: Int64s, offset: Int64s) -> Bools:
        """Give which records their entities have not been told yet."""
        fresh: Bools = offset >= self._next[owner, self._column[source]]
        return fresh

    def advance(self, owner: Int64s, source: Int64s, offset: Int64s) -> None:
        """Take note of records applied."""
        np.maximum.at(self._next, (owner, self._column[source]), offset + 1)

    def blobs(self) -> list[bytes]:
        """Encode, one blob for each entity."""
        owner, column = np.nonzero(self._next)
        words = (self._sources[column].astype(np.uint64) << np.uint64(_OFFSET_BITS)) | self._next[
            owner, column
        ].astype(np.uint64)
        data = words.astype("<u8").tobytes()
        count, rest = divmod(len(owner), max(len(self._next), 1))
        if count and not rest and (owner == np.repeat(np.arange(len(self._next)), count)).all():
            # As many each, as when all events of an entity lie in one partition.
            same: list[bytes] = np.frombuffer(data, dtype=f"V{8 * count}").tolist()
            return same
        ends = (np.searchsorted(owner, np.arange(len(self._next) + 1)) * 8).tolist()
        return [data[ends[n] : ends[n + 1]] for n in range(len(self._next))]
