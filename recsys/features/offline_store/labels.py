"""The labels of one request, and what all its views want to know of them, worked out once.

Views are joined side by side, and most share their moments, their TTL and their keys with another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.offline_store.keys import KeyCodes
from recsys.features.offline_store.label_order import Int64s, LabelOrder
from recsys.features.offline_store.times import Unit, limits, unit_of

_T = TypeVar("_T")


class JoinLabels:
    """Keys and moments (L,), for many threads.

    Args:
        table: The labels.
        moment: Name of the moments' column.
    """

    def __init__(self, table: pa.Table, moment: str) -> None:
        self.table = table
        self.moment = moment
        self._made: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}

    def limits(
        self, ttl: timedelta | None, unit: Unit
    ) -> tuple[Int64s, Int64s | None, npt.NDArray[np.bool_]]:
        """Latest and earliest event time that counts for each label: ``times.limits``."""
        return self._once(("limits", ttl, unit), lambda: limits(self._moments, ttl, unit))

    def keyed(
        self, columns: Sequence[str], kinds: Sequence[pa.DataType], names: Sequence[str]
    ) -> tuple[KeyCodes, LabelOrder]:
        """The labels' keys as codes, and the labels by moment and by key.

        Args:
            columns: Of the labels, that hold the key.
            kinds: The types of the source's key columns, in the same order.
            names: Of those, for messages.
        """

        def make() -> tuple[KeyCodes, LabelOrder]:
            keys = KeyCodes(
                [self.table.column(name) for name in columns], kinds, names, len(self.table)
            )
            has_moment, by_moment = self._by_moment()
            return keys, LabelOrder(np.where(has_moment, keys.codes, -1), by_moment)

        return self._once(("keyed", *columns, *kinds, *names), make)

    @property
    def _moments(self) -> pa.ChunkedArray:
        return self.table.column(self.moment)

    def _by_moment(self) -> tuple[npt.NDArray[np.bool_], Int64s]:
        """Whether a label has a moment (L,), and the labels by moment: also in coarser units."""
        exact, _, has_moment = self.limits(None, unit_of([self._moments.type]))
        return self._once("by moment", lambda: (has_moment, np.argsort(exact)))

    def _once(self, what: Hashable, make: Callable[[], _T]) -> _T:
        """What ``make`` gives; who asks while it is being made waits for it."""
        with self._locks.setdefault(what, Lock()):
            if what not in self._made:
                self._made[what] = make()
            found: _T = self._made[what]
            return found
