"""Which items' features are to be read again, and what is known ahead of those that time changes.

Windows fall at the borders of slides, so many items change at once: at a full hour, at midnight all
of a catalogue. Therefore what they will be then is computed before, little by little, and only put
in place when it is time.

Axes: ``N`` items, ``M`` some of them, ``Fi`` features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Float32s, Int64s
from recsys.features.next_change import NO_CHANGE_MS

_AHEAD_MS = 10 * 60_000
"""Features are computed so long before they are due, at most: what is written to an item until then
makes it be done again."""
_SEARCH_MS = 1_000
"""Between two searches for items to compute ahead: all rows are looked at."""


class DueItems:
    """Of rows ``1 … N``; row 0 is padding. Not thread-safe."""

    def __init__(self, num_items: int, num_features: int, *, room: int = 0) -> None:
        """``room``: how many items may be added (``grow``); it takes memory where it is used."""
        rows = num_items + 1 + room
        self._storage: tuple[NDArray[np.bool_], Int64s, NDArray[np.bool_], Float32s, Int64s] = (
            np.zeros(rows, dtype=np.bool_),
            np.full(rows, NO_CHANGE_MS, dtype=np.int64),
            np.zeros(rows, dtype=np.bool_),
            np.zeros((rows, num_features), dtype=np.float32),
            np.zeros(rows, dtype=np.int64),
        )
        self._soonest_ms = NO_CHANGE_MS
        """Nothing is due before."""
        self._next_search_ms = 0
        self._take_rows(num_items + 1)

    def _take_rows(self, count: int) -> None:
        """Look at so many rows; nothing moves."""
        pending, due_ms, is_ahead, ahead, ahead_until_ms = self._storage
        assert count <= len(pending), "the model has no room for them either"
        self._pending = pending[:count]
        self._due_ms = due_ms[:count]
        """When time alone may change the features."""
        self._is_ahead = is_ahead[:count]
        self._ahead = ahead[:count]
        """Where ``_is_ahead``: the features from ``_due_ms`` until ``_ahead_until_ms``."""
        self._ahead_until_ms = ahead_until_ms[:count]

    @property
    def num_items(self) -> int:
        """N."""
        return len(self._pending) - 1

    @property
    def num_pending(self) -> int:
        """How many are to be read again."""
        return int(self._pending.sum())

    def grow(self, count: int) -> None:
        """Add items, to be read."""
        before = len(self._pending)
        self._take_rows(before + count)
        self._pending[before:] = True

    def mark_all(self) -> None:
        """Have all items read again."""
        self._pending[1:] = True
        self._next_search_ms = 0

    def mark(self, rows: list[int]) -> None:
        """Have some items read again."""
        self._pending[rows] = True

    def see(self, now_ms: int) -> tuple[Int64s, Int64s]:
        """Give the rows that are to be read, and those due whose features are known: once."""
        ready: Int64s = np.empty(0, dtype=np.int64)
        if now_ms >= self._soonest_ms:
            due = self._due_ms <= now_ms
            is_ready = due & ~self._pending & self._is_ahead & (self._ahead_until_ms > now_ms)
            self._pending |= due & ~is_ready
            ready = np.flatnonzero(is_ready)
            self._soonest_ms = int(np.where(due, NO_CHANGE_MS, self._due_ms).min())
        return np.flatnonzero(self._pending), ready

    def known_ahead(self, rows: Int64s) -> tuple[Float32s, Int64s]:
        """Give the features ``[M, Fi]`` of rows that are ready, and until when they stay."""
        return self._ahead[rows], self._ahead_until_ms[rows]

    def put(self, rows: Int64s, until_ms: Int64s) -> None:
        """Take note that the features of ``[M]`` rows are as of now, and when that ends."""
        self._pending[rows] = False
        self._is_ahead[rows] = False
        self._due_ms[rows] = until_ms
        if len(rows):
            self._soonest_ms = min(self._soonest_ms, int(until_ms.min()))

    def to_prepare(self, now_ms: int, most: int) -> tuple[Int64s, Int64s]:
        """Give rows whose next features are not known and will be due before long, and when."""
        none: Int64s = np.empty(0, dtype=np.int64)
        if now_ms < self._next_search_ms:
            return none, none
        unknown = ~self._is_ahead & ~self._pending & (self._due_ms <= now_ms + _AHEAD_MS)
        rows = np.flatnonzero(unknown)
        if len(rows) <= most:
            self._next_search_ms = now_ms + _SEARCH_MS
        return rows[:most], self._due_ms[rows[:most]]

    def prepare(self, rows: Int64s, features: Float32s, until_ms: Int64s) -> None:
        """Keep what the features of ``[M]`` rows will be when they are due, and how long."""
        self._ahead[rows] = features
        self._ahead_until_ms[rows] = until_ms
        self._is_ahead[rows] = True
