"""How far an entity has been told: the log positions its state carries.

A record at or behind its entity's position was applied before and is skipped, which turns delivery
at least once into an effect exactly once: state, features and positions of an entity are written
in one step, so wherever a process dies, the next one continues from what was written.

A source is one partition of the behaviour topic (its number) or of the item topic (its number
with the high bit set).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregates import split_records
from recsys.features.batch import Bools, Int64s

POSITIONS_FIELD = b"~positions"
ITEM_SOURCES = 0x8000
"""Added to a partition of the item topic."""
_DTYPE = np.dtype([("source", "<u2"), ("next", "<i8")])


class Positions:
    """Positions of many entities while one batch is applied to them."""

    def __init__(self, blobs: Sequence[bytes | None], sources: Int64s) -> None:
        """Decode the positions of entities ``0 … len(blobs) - 1``; batch from ``sources``."""
        lengths = np.fromiter((len(b) if b else 0 for b in blobs), np.int64, len(blobs))
        stored = np.frombuffer(b"".join([b for b in blobs if b]), dtype=_DTYPE)
        owner = np.repeat(np.arange(len(blobs)), lengths // _DTYPE.itemsize)
        self._sources = np.unique(np.concatenate([sources, stored["source"].astype(np.int64)]))
        self._next = np.zeros((len(blobs), len(self._sources)), dtype=np.int64)
        self._next[owner, np.searchsorted(self._sources, stored["source"])] = stored["next"]

    def fresh(self, owner: Int64s, source: Int64s, offset: Int64s) -> Bools:
        """Give which records their entities have not been told yet."""
        fresh: Bools = offset >= self._next[owner, np.searchsorted(self._sources, source)]
        return fresh

    def advance(self, owner: Int64s, source: Int64s, offset: Int64s) -> None:
        """Take note of records applied."""
        np.maximum.at(self._next, (owner, np.searchsorted(self._sources, source)), offset + 1)

    def blobs(self) -> list[bytes]:
        """Encode, one blob for each entity."""
        owner, column = np.nonzero(self._next)
        records: NDArray[np.void] = np.empty(len(owner), dtype=_DTYPE)
        records["source"] = self._sources[column]
        records["next"] = self._next[owner, column]
        return split_records(records, owner, len(self._next))
