"""Expectations checked in the stream: how many values that are about to be served break a rule.

Range and nulls can be judged value by value; shares, cardinality and age need all entities, which
``check.py`` has. A batch that keeps the rules costs two reductions over its values.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.features.batch import Bools, Float32s
from recsys.features.plan import Plan
from recsys.features.view import View
from recsys.telemetry import FEATURE_VALUES, FEATURE_VIOLATIONS


class ValueObserver(Protocol):
    """Is shown the values of a view where they are final: what the stream calls."""

    def observe(self, view: View, values: Float32s) -> None:
        """See ``[N, F]`` values of ``N`` entities, columns as ``view.scalar_aggregates``."""


class Checker:
    """Counts values and violations by view, feature and rule. Thread-safe."""

    def __init__(self, plan: Plan) -> None:
        self._expected = {e.view for e in plan.expectations if e.feature}
        self._plan = plan
        self._rules: dict[tuple[str, ...], _Rules] = {}

    def observe(self, view: View, values: Float32s) -> None:
        """Count; a view nothing is expected of costs a look in a set.

        While a view is cut over it may have other columns than the plan's: features are judged by
        their names.

        A NaN is a null: it breaks no range, and ``null`` where ``max_null_share`` is declared.
        """
        if view.name not in self._expected or not len(values):
            return
        columns = tuple(a.name for a in view.scalar_aggregates)
        key = (view.name, *columns)
        rules = self._rules.get(key)
        if rules is None:
            rules = self._rules[key] = _Rules(view.name, columns, self._plan)
        rules.counted.inc(len(values))
        # NaN runs through both, and compares as broken: the slow look decides.
        kept = (values.min(axis=0) >= rules.low) & (values.max(axis=0) <= rules.high)
        if not kept.all():
            rules.count(values, np.flatnonzero(~kept).tolist())


class _Rules:
    """Those of one view, as columns; a missing bound is infinite."""

    def __init__(self, view: str, columns: tuple[str, ...], plan: Plan) -> None:
        by_feature = {e.feature: e for e in plan.expectations if e.view == view}
        expected = [by_feature.get(name) for name in columns]
        # Bounds as float32, like the values: 0.1 must not be below 0.1.
        self.low = _column([None if e is None else e.min for e in expected], -np.inf)
        self.high = _column([None if e is None else e.max for e in expected], np.inf)
        self._judges_nulls = [e is not None and e.max_null_share is not None for e in expected]
        self._view, self._columns = view, columns
        self.counted = FEATURE_VALUES.labels(view=view)

    def count(self, values: Float32s, columns: list[int]) -> None:
        """Count the violations of some columns."""
        for f in columns:
            column = values[:, f]
            self._inc(f, "min", column < self.low[f])
            self._inc(f, "max", column > self.high[f])
            if self._judges_nulls[f]:
                self._inc(f, "null", np.isnan(column))

    def _inc(self, f: int, rule: str, broken: Bools) -> None:
        if num := int(np.count_nonzero(broken)):
            name = self._columns[f]
            FEATURE_VIOLATIONS.labels(view=self._view, feature=name, rule=rule).inc(num)


def _column(bounds: list[float | None], missing: float) -> Float32s:
    return np.array([missing if b is None else b for b in bounds], dtype=np.float32)
