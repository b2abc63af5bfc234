"""Popularity lift: whether lists are more popular than what their users chose for themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.average_popularity import average_popularity_at_k
from recsys.features.batch import Ragged


def mean_popularity_of(profiles: Ragged, popularity: NDArray[np.number]) -> NDArray[np.float64]:
    """Give ``[B]`` the mean popularity of the items each user had; NaN for one who had none."""
    length = np.diff(profiles.offsets)
    owner = np.repeat(np.arange(len(profiles)), length)
    amount = np.asarray(popularity, dtype=np.float64)[profiles.values.astype(np.int64)]
    total = np.bincount(owner, amount, minlength=len(profiles))
    return np.where(length > 0, total / np.maximum(length, 1), np.nan)


def popularity_lift_at_k(
    ranked: NDArray[np.integer], profiles: Ragged, popularity: NDArray[np.number], *, k: int
) -> float:
    """Give ``(q - p) / p`` of a group of users: 0 as they were, 1 twice as popular.

    ``p`` is the mean over users of the mean popularity of what they had (``profiles``: distinct
    items of each), ``q`` that of what they are shown. Users without a profile or a list are left
    out; NaN when nobody is left, or ``p`` is 0.
    Source: Abdollahpouri et al. 2020, "The connection between popularity bias, calibration, and
    fairness in recommendation", eq. 1.
    """
    shown = average_popularity_at_k(ranked, popularity, k=k)
    had = mean_popularity_of(profiles, popularity)
    both = ~np.isnan(shown) & ~np.isnan(had)
    base = had[both].mean() if both.any() else 0.0
    return float((shown[both].mean() - base) / base) if base > 0 else float("nan")
