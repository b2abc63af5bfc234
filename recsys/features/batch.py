"""Features of many users or items at given moments, as arrays: the seam between storage and models.

The online reader (Redis) and the offline reader (point-in-time over the event log) both give these
two classes, so that a model cannot tell which of them it was fed by. A value at time *t* depends
only on events with event time <= *t*; windows are finalised at *t*, not at the last write.

Axes: ``B`` users (or user-moments), ``I`` items, ``G`` categories, ``F*`` feature columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of unequal length: row ``b`` is ``values[offsets[b]:offsets[b + 1]]``."""

    values: NDArray[np.generic]
    offsets: Int64s
    """``[B + 1]``, first 0, never falling."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, b: int) -> NDArray[np.generic]:
        """Give row ``b`` as a view."""
        return self.values[self.offsets[b] : self.offsets[b + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFeatures:
    """What is known about ``B`` users, each at its own moment.

    An unknown user has ``known=False``, zeros and empty rows: the documented cold start.
    """

    as_of_ms: Int64s
    """``[B]``: the moment each row speaks of."""
    known: Bools
    """``[B]``: whether anything at all was on record by then."""
    token_hashes: Ragged
    """int64 hashes (``names.token_hash``) of the profile's ``key=value`` tokens."""
    activity: Float32s
    """``[B, Fu]`` windowed aggregates of view ``user_activity``, columns in the plan's order."""
    history_index: Ragged
    """int32 vocabulary indexes (1…N) of the distinct items acted on, least recent first.

    Bounded to the most recent ``names.HISTORY_LENGTH``; items outside the vocabulary are left out.
    """
    history_count: Ragged
    """float32, aligned with ``history_index``: interactions with that item so far."""
    history_last_ms: Ragged
    """int64, aligned with ``history_index``: event time of the latest of them."""
    category_activity: Float32s
    """``[B, G, Fc]`` aggregates of view ``user_category_activity``, G in vocabulary order."""

    def __len__(self) -> int:
        return len(self.as_of_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemActivity:
    """Moving features of ``I`` items at one moment (static ones live in the bundle's catalogue)."""

    as_of_ms: int
    known: Bools
    """``[I]``: whether the store holds anything for the item."""
    activity: Float32s
    """``[I, Fi]`` windowed aggregates of view ``item_activity``, columns in the plan's order."""
