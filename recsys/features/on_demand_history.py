"""On-demand features at past moments: the offline twin of ``OnlineReader.read_on_demand``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Int64s
from recsys.features.log_rows import LogRows
from recsys.features.on_demand import evaluate, inputs_at
from recsys.features.plan import Plan
from recsys.features.view_history import ViewHistory


class OnDemandHistory:
    """One on-demand view of any entities at any moments, for training rows."""

    def __init__(self, log: LogRows, plan: Plan, name: str) -> None:
        """Index the log for the views that ``name`` reads.

        Raises:
            FeatureError: when the plan has no such view, or a source that is no view of aggregates.
        """
        self._view = plan.on_demand_view(name)
        sources = plan.sources_of(name)
        self._sources = {view.name: ViewHistory(log, view) for view in sources}
        self._names = {view.name: [a.name for a in view.scalar_aggregates] for view in sources}

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        request: Mapping[str, Any],
        *,
        known_by_ms: Int64s | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Give the features ``[Q]`` by name: what was given to who asked at ``moments_ms[q]``.

        Args:
            keys: the join keys of the source views, ``[Q]`` each.
            moments_ms: ``[Q]``; also the input ``as_of_ms``, unless ``request`` has it.
            request: the fields ``[Q]`` that the function takes from the request.
            known_by_ms: see ``ViewHistory.at``.

        Raises:
            InputError: when a key or a field is absent, or they are not of one length.
        """
        moments = np.asarray(moments_ms, dtype=np.int64)
        read: dict[str, tuple[Sequence[str], NDArray[Any]]] = {
            name: (self._names[name], history.at(keys, moments, known_by_ms=known_by_ms))
            for name, history in self._sources.items()
        }
        return evaluate(self._view, inputs_at(moments, request, read))
