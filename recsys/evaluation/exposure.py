"""Exposure: which groups of items get the places that users look at.

Axes: ``B`` users, ``K`` places, ``N`` items, ``G`` groups of items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
HEAD, TORSO, TAIL = 0, 1, 2
POPULARITY_GROUPS = ("head", "torso", "tail")


def popularity_group(popularity: NDArray[np.number], *, share: float = 0.2) -> Int64s:
    """Give ``[N + 1]`` the group of each item: head, torso or tail; -1 for padding.

    The head is the fewest items that together have at least ``share`` of all interactions, the tail
    the least popular ones that have at most ``share`` of them (never-touched items first), the
    torso the rest. Ties go by row. With no interaction at all every item is tail.
    Source: Abdollahpouri et al. 2021, "User-centered evaluation of popularity bias in recommender
    systems", section 3.1.
    """
    counts = np.asarray(popularity, dtype=np.float64)[1:]
    order = np.argsort(-counts, kind="stable")
    running = np.cumsum(counts[order])
    total = running[-1] if len(running) else 0.0
    group = np.full(len(counts), TORSO, dtype=np.int64)
    if total > 0:
        num_head = int(np.searchsorted(running, share * total * (1 - 1e-12))) + 1
        left = total - running  # interactions of all items after each
        tail_from = int((left > share * total * (1 + 1e-12)).sum()) + 1
        group[order[:num_head]] = HEAD
        group[order[max(tail_from, num_head) :]] = TAIL
    else:
        group[:] = TAIL
    return np.concatenate([[-1], group])


def exposure_of_items(
    ranked: NDArray[np.integer], *, num_items: int, k: int, discounted: bool = True
) -> Float64s:
    """Give ``[N + 1]`` the exposure of each item over all lists; row 0 is 0.

    A place counts ``1 / log2(place + 1)`` when ``discounted``, else 1.
    Source: Singh & Joachims 2018, "Fairness of exposure in rankings", section 3.2.
    """
    top = ranked[:, :k]
    weight = 1.0 / np.log2(np.arange(2, top.shape[1] + 2)) if discounted else 1.0
    places = np.broadcast_to(weight, top.shape)
    found = np.bincount(top.ravel(), places.ravel(), minlength=num_items + 1).astype(np.float64)
    found[0] = 0.0
    return found


def group_shares(amount: Float64s, group: Int64s, *, num_groups: int) -> Float64s:
    """Give ``[G]`` the share of ``[N + 1]`` amounts that each group has; group -1 is left out.

    NaN when there is nothing to share. With ``exposure_of_items`` it is the exposure of groups; the
    tail's share of undiscounted places is APLT (Abdollahpouri et al. 2019).

    >>> group_shares(np.array([0.0, 3.0, 1.0]), np.array([-1, 0, 1]), num_groups=2)
    array([0.75, 0.25])
    """
    kept = group >= 0
    found = np.bincount(group[kept], amount[kept], minlength=num_groups)
    total = found.sum()
    return found / total if total > 0 else np.full(num_groups, np.nan)
