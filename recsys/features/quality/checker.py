"""Expectations checked in the stream: how many values that are about to be served break a rule.

Range and nulls can be judged value by value; shares, cardinality and age need all entities, which
``check.py`` has. A batch that keeps the rules costs two reductions over its values.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.features.batch import Bools, Float32s
from recsys.features.plan import Plan, View
from recsys.telemetry import FEATURE_VALUES, FEATURE_VIOLATIONS


class ValueObserver(Protocol):
    """Is shown the values of a view where they are final: what the stream calls."""

    def observe(self, view: str, values: Float32s) -> None:
        """See ``[N, F]`` values of ``N`` entities, columns in the plan's order."""


class Checker:
    """Counts values and violations by view, feature and rule. Thread-safe."""

    def __init__(self, plan: Plan) -> None:
        self._rules = {
            view.name: rules for view in plan.views if (rules := _Rules(view, plan)).any_rule
        }

    def observe(self, view: str, values: Float32s) -> None:
        """Count; a view nothing is expected of costs a look in a dictionary.

        A NaN is a null: it breaks no range, and ``null`` where ``max_null_share`` is declared.
        """
        rules = self._rules.get(view)
        if rules is None or not len(values):
            return
        rules.counted.inc(len(values))
        # NaN runs through both, and compares as broken: the slow look decides.
        kept = (values.min(axis=0) >= rules.low) & (values.max(axis=0) <= rules.high)
        if not kept.all():
            rules.count(values, np.flatnonzero(~kept).tolist())


class _Rules:
    """Those of one view, as columns; a missing bound is infinite."""

    def __init__(self, view: View, plan: Plan) -> None:
        by_feature = {e.feature: e for e in plan.expectations if e.view == view.name}
        expected = [by_feature.get(name) for name in view.feature_names]
        numeric = all(f.type == "float32" for f in view.features)
        self.any_rule = numeric and any(e is not None for e in expected)
        # Bounds as float32, like the values: 0.1 must not be below 0.1.
        self.low = _column([None if e is None else e.min for e in expected], -np.inf)
        self.high = _column([None if e is None else e.max for e in expected], np.inf)
        self._judges_nulls = [e is not None and e.max_null_share is not None for e in expected]
        self._view = view
        if self.any_rule:
            self.counted = FEATURE_VALUES.labels(view=view.name)

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
            name = self._view.feature_names[f]
            FEATURE_VIOLATIONS.labels(view=self._view.name, feature=name, rule=rule).inc(num)


def _column(bounds: list[float | None], missing: float) -> Float32s:
    return np.array([missing if b is None else b for b in bounds], dtype=np.float32)
