"""Exposure between groups of items: places they get, beside places that would be their due."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.evaluation.exposure import Float64s, Int64s, group_shares


def exposure_per_due(
    exposure: Float64s, due: Float64s, group: Int64s, *, names: Sequence[str]
) -> dict[str, float]:
    """Give each group's share of exposure over its share of what is due: 1 is even.

    Args:
        exposure: ``[N + 1]`` of ``exposure_of_items``.
        due: ``[N + 1]`` what exposure should follow: 1 for every item is parity of items
            (demographic parity in the source), how often an item is relevant is parity of merit
            (its disparate treatment).
        group: ``[N + 1]`` 0 … G - 1, or -1 for no group.
        names: Of the ``G`` groups.

    A group to which nothing is due is NaN.
    Source: Singh & Joachims 2018, "Fairness of exposure in rankings", eq. 4 and 5.
    """
    shown = group_shares(exposure, group, num_groups=len(names))
    wanted = group_shares(due, group, num_groups=len(names))
    return {
        name: float(s / w) if w > 0 else float("nan")
        for name, s, w in zip(names, shown, wanted, strict=True)
    }
