"""Events of many entities as columns: what every aggregate is computed from.

The stream makes such rows of a batch of records, a backfill and training of the event log; what is
done with them (``aggregate_state.py``, ``event_index.py``) is the same, and knows no other source.

Axes: ``N`` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Bools, Int64s

QUANTUM = 2.0**-16
"""Resolution of an event's value (0.000015). A window's sum is exact while it stays below 1.4e14,
140 events of the greatest value the event schema allows."""
KINDS = ("interaction", "impression", "feedback")
"""What a row can be: the first part of a column's name."""
NO_CATEGORY = 0
"""Identity hash of the empty string."""


def units_of(values: ArrayLike) -> Int64s:
    """Give values as whole numbers of ``QUANTUM``, rounded half to even."""
    return np.rint(np.asarray(values, dtype=np.float64) / QUANTUM).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one kind of entity as columns, ``[N]`` each, in any order."""

    owner: Int64s
    """Entity of the row, 0 … number of entities - 1."""
    time_ms: Int64s
    units: Int64s
    kind: NDArray[np.uint8]
    """Place in ``KINDS``."""
    event_type: NDArray[np.int64]
    """Place in ``types``."""
    types: Sequence[str]
    item: Int64s | None = None
    """Identity hash of the item of the event; wanted by columns with the field ``item_id``."""
    category: Int64s | None = None
    """Identity hash of its category, ``NO_CATEGORY`` where it has none; wanted by columns with the
    field ``category``."""

    def identity(self, column: str) -> Int64s:
        """Give what ``column`` takes of each event: a hash, or its value in units.

        Raises:
            FeatureError: when whoever made these rows did not give it.
        """
        field = column.partition(".")[2]
        if not field:
            return self.units
        found = self.item if field == "item_id" else self.category
        if found is None:
            raise FeatureError(f'column "{column}": wanted rows with the hashes of {field}')
        return found

    def select(self, column: str) -> Bools:
        """Give which rows belong to ``column``."""
        kind, _, event_type = column.partition(".")[0].partition("__")
        mask: Bools = self.kind == KINDS.index(kind)
        if event_type:
            if event_type not in self.types:
                return np.zeros(len(mask), dtype=np.bool_)
            mask &= self.event_type == self.types.index(event_type)
        if column.endswith(".category"):
            mask &= self.identity(column) != NO_CATEGORY  # it names nothing, so its cell is null
        return mask

    def take(self, rows: NDArray[np.generic], owner: Int64s | None = None) -> Rows:
        """Give some rows, with other owners if wanted (``owner`` is already cut to ``rows``)."""
        return Rows(
            self.owner[rows] if owner is None else owner,
            self.time_ms[rows],
            self.units[rows],
            self.kind[rows],
            self.event_type[rows],
            self.types,
            None if self.item is None else self.item[rows],
            None if self.category is None else self.category[rows],
        )
