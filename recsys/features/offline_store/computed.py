"""Stream views computed at the labels' moments instead of looked up in rows.

Rows of a windowed aggregate say what it was at an entity's events. Between them a window falls: an
hour after the last click ``clicks_1h`` is 0, though no row says so. Where the events themselves are
at hand, the value at a moment is computed from them, and is then the one the online reader gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.offline_store.asof import Int64s
from recsys.features.offline_store.times import limits


class ViewHistory(Protocol):
    """The values of one view's aggregates at any key and moment, from its event log."""

    @property
    def names(self) -> Sequence[str]:
        """Aggregates, in the order of the columns ``at`` gives."""

    def at(
        self, keys: Sequence[tuple[str, ...]], times_ms: Int64s
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Values as the online reader would have given them.

        Args:
            keys: Key of each label (L,), parts in the order of the view's join keys.
            times_ms: Moments (L,), epoch milliseconds.

        Returns:
            Values (L, aggregates), and whether the key was known and within its TTL (L,).
        """


@dataclass(frozen=True)
class ComputedView:
    """A stream view whose values are computed.

    Attributes:
        name: Of the view, for messages.
        history: Computes them.
        label_keys: Columns of the labels that hold the key, in the order of the view's join keys.
        features: Pairs of (aggregate, column of the answer).
    """

    name: str
    history: ViewHistory
    label_keys: tuple[str, ...]
    features: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the answer."""
        return tuple(name for _, name in self.features)

    def features_at(self, labels: pa.Table, moment: str, max_bytes: int) -> pa.Table:
        """Values at each label's moment; null where the online reader has none either."""
        # A moment within a millisecond has seen what that millisecond saw, no more: rounded down.
        micros, _, has_moment = limits(labels.column(moment), timedelta(0), "us")
        columns = [labels.column(name).to_pylist() for name in self.label_keys]
        keys = list(zip(*columns, strict=True)) if columns else [()] * len(micros)
        asked = has_moment & np.array([None not in key for key in keys], dtype=bool)
        at = np.flatnonzero(asked)
        values = np.zeros((len(micros), len(self.history.names)), dtype=np.float32)
        known = np.zeros(len(micros), dtype=bool)
        if len(at):
            found, there = self.history.at([keys[n] for n in at], micros[at] // 1000)
            values[at], known[at] = found, there
        order = {name: number for number, name in enumerate(self.history.names)}
        return pa.table(
            [pa.array(values[:, order[aggregate]], mask=~known) for aggregate, _ in self.features],
            names=list(self.names),
        )
