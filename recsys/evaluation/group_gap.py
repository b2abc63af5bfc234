"""The gap between groups: how much better the best served group has it than the worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GroupGap:
    """The two ends of a metric over groups."""

    best: str
    worst: str
    difference: float
    """Best less worst; 0 is even."""
    ratio: float
    """Worst over best; 1 is even, 0 is a group that gets nothing."""


def group_gap(value: Mapping[str, float]) -> GroupGap | None:
    """Give the gap of a metric (higher is better, none negative) between named groups.

    Used for a metric of groups of users (does the recommender work as well for each) and for the
    exposure of groups of items over what would be even. None with fewer than two groups that have
    a value: there is nothing to compare. The ratio is NaN when the best is 0.

    The maximum over groups grows with their number and with the noise of small ones: leave out
    groups that are too small, and read it beside their intervals.
    Source: Ekstrand et al. 2018, "All the cool kids, how do they fit in?" (the comparison between
    groups of users); difference and ratio as in Weerts et al. 2023, "Fairlearn".

    >>> group_gap({"fr": 0.2, "de": 0.15})
    GroupGap(best='fr', worst='de', difference=0.05, ratio=0.75)
    """
    known = {name: v for name, v in value.items() if v == v}  # NaN is not equal to itself
    if len(known) < 2:
        return None
    best = max(known, key=lambda name: known[name])
    worst = min(known, key=lambda name: known[name])
    high, low = known[best], known[worst]
    return GroupGap(
        best=best,
        worst=worst,
        difference=round(high - low, 12),
        ratio=round(low / high, 12) if high > 0 else float("nan"),
    )
