"""Views computed from events at the labels' moments instead of looked up in rows.

Rows of a windowed aggregate say what it was at an entity's events. Between them a window falls: an
hour after the last click ``clicks_1h`` is 0, though no row says so. Where the events themselves are
at hand, the value at a moment is computed from them, and is then the one the online reader gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from recsys.errors import InputError
from recsys.features.offline_store.label_order import Int64s
from recsys.features.offline_store.labels import JoinLabels

_VALUE_BYTES = 256  # of a feature and label: a number's eight, or a list of some tens


class Computes(Protocol):
    """The values of one view for any key at any moment."""

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> pa.Table:
        """Values as the online reader would have given them.

        Args:
            keys: By join key, the value of each label (L,).
            moments_ms: Moments (L,), epoch milliseconds.
            known_by_ms: Leave out events received later (L,); None: what happened by the moment
                counts, whenever it was received.

        Returns:
            A column for each feature of the view (L,).
        """


@dataclass(frozen=True)
class ComputedView:
    """A view whose values are computed.

    Attributes:
        name: Of the view, for messages.
        computes: What does.
        keys: Pairs of (join key of the view, column of the labels).
        features: Pairs of (feature, column of the answer).
        knowledge: Whether an event must have been received by the label's moment.
    """

    name: str
    computes: Computes
    keys: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]
    knowledge: bool = False

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Columns of the labels that hold the key."""
        return tuple(label for _, label in self.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the answer."""
        return tuple(name for _, name in self.features)

    @property
    def row_bytes(self) -> int:
        """About what one row of the answer takes: room for a list in each column."""
        return _VALUE_BYTES * len(self.features)

    def features_at(self, labels: JoinLabels, max_bytes: int) -> pa.Table:
        """Values at each label's moment; null where the label has no moment or no key.

        Raises:
            InputError: a key is not text.
        """
        # A moment within a millisecond has seen what that millisecond saw, no more: rounded down.
        micros, _, has_moment = labels.limits(None, "us")
        asked = has_moment.copy()
        for name in self.label_keys:
            asked &= labels.table.column(name).is_valid().to_numpy()
        place = np.flatnonzero(asked)
        some = labels.table.select(list(dict.fromkeys(self.label_keys))).take(pa.array(place))
        keys = {key: self._texts(some, label) for key, label in self.keys}
        moments_ms = micros[place] // 1000
        values = self.computes.at(
            keys, moments_ms, known_by_ms=moments_ms if self.knowledge else None
        )
        # Every label's row among those computed; null for one that was not asked.
        rows = np.full(len(asked), -1, dtype=np.int64)
        rows[place] = np.arange(len(place))
        taken = pa.array(rows, mask=~asked)
        return pa.table(
            [values.column(feature).take(taken) for feature, _ in self.features],
            names=list(self.names),
        )

    def _texts(self, labels: pa.Table, name: str) -> list[str]:
        column = labels.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_null(kind):
            return []
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(
                f"entity_df: wanted text in {name!r}, a key of view {self.name!r}; found {kind}; "
                "the event log's identities are text: convert the column",
                field=name,
            )
        return column.to_pylist()  # type: ignore[no-any-return]
