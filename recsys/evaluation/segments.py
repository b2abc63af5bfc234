"""Metrics by segment: for whom, and for which items, it works, and where that cannot be said.

Axes: ``B`` users, ``G`` groups of a segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.bootstrap import Interval
from recsys.evaluation.report import intervals
from recsys.features.batch import Int64s

Float64s = NDArray[np.float64]
MIN_USERS = 30
"""Users a group must have to be judged: with fewer the interval spans most of the scale, and the
figures would speak of single persons."""
MAX_GROUPS = 12
"""Groups of an attribute; the smaller ones are put together as ``OTHER``."""
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """A way of dividing users or items."""

    by: str
    """What they are divided by, such as ``country``."""
    names: tuple[str, ...]
    """Of the ``G`` groups, in the order shown."""
    group: Int64s
    """``[B]`` (users) or ``[N + 1]`` (items): 0 … G - 1, or -1 for none."""


@dataclass(frozen=True, kw_only=True)
class GroupQuality:
    """How good lists are for one group."""

    name: str
    num_users: int
    """Users in the group with something relevant."""
    by_metric: Mapping[str, Interval] = field(default_factory=dict)
    """Empty when there are fewer than ``MIN_USERS``."""
    difference: Mapping[str, Interval] = field(default_factory=dict)
    """Ours less the other's, over the same users; empty when there is no other."""

    @property
    def is_enough(self) -> bool:
        """Whether there are users enough to say anything."""
        return self.num_users >= MIN_USERS


def judge_group(
    name: str,
    values: Mapping[str, Float64s],
    rivals: Mapping[str, Float64s] | None,
    *,
    rng: np.random.Generator,
) -> GroupQuality:
    """Judge a group from ``[B]`` values of its users; NaN values had nothing to find.

    ``rivals`` are another recommender's values for the same users, in the same order.
    """
    first = next(iter(values.values()))
    judged = ~np.isnan(first)
    num_users = int(judged.sum())
    if num_users < MIN_USERS:
        return GroupQuality(name=name, num_users=num_users)
    ours = {metric: v[judged] for metric, v in values.items()}
    if rivals is None:
        return GroupQuality(name=name, num_users=num_users, by_metric=intervals(ours, rng))
    apart = {metric: ours[metric] - rivals[metric][judged] for metric in ours}
    # One table: the intervals of a metric and of its difference come from the same resamples.
    both = intervals({**ours, **{f"{m} apart": v for m, v in apart.items()}}, rng)
    return GroupQuality(
        name=name,
        num_users=num_users,
        by_metric={metric: both[metric] for metric in ours},
        difference={metric: both[f"{metric} apart"] for metric in ours},
    )


def by_quartile(by: str, amount: Int64s) -> Grouping:
    """Divide users into quartiles of a whole number, such as interactions before the test.

    Equal numbers are never divided, so quartiles may differ in size, and one may be missing.
    """
    edges = np.unique(np.quantile(amount, [0.25, 0.5, 0.75])) if len(amount) else np.zeros(0)
    group = np.searchsorted(edges, amount, side="left").astype(np.int64)
    names = []
    for g in range(len(edges) + 1):
        of_group = amount[group == g]
        low, high = (int(of_group.min()), int(of_group.max())) if len(of_group) else (0, 0)
        names.append(f"{low:,}" if low == high else f"{low:,} to {high:,}")
    used = [g for g in range(len(names)) if (group == g).any()]
    code = np.full(len(names), -1, dtype=np.int64)
    code[used] = np.arange(len(used))
    return Grouping(by=by, names=tuple(names[g] for g in used), group=code[group])


def by_value(by: str, value: Sequence[str | None]) -> Grouping | None:
    """Divide by an attribute: the commonest values, the rest together; None is no group.

    None when there are fewer than two values, or when hardly any value comes twice (a name, an
    address): such an attribute divides into persons, not into groups.
    """
    known = [v for v in value if v is not None]
    if not known:
        return None
    names, count = np.unique(np.array(known, dtype=object).astype(str), return_counts=True)
    if len(names) < 2 or len(names) > max(len(known) / 5, MAX_GROUPS):
        return None
    order = np.lexsort((names, -count))
    if len(order) > MAX_GROUPS:
        kept = [str(n) for n in names[order[: MAX_GROUPS - 1]]]
        kept = [*kept, OTHER if OTHER not in kept else "all others"]
    else:
        kept = [str(n) for n in names[order]]
    code = {name: g for g, name in enumerate(kept)}
    last = len(kept) - 1
    group = [-1 if v is None else code.get(str(v), last) for v in value]
    return Grouping(by=by, names=tuple(kept), group=np.array(group, dtype=np.int64))
