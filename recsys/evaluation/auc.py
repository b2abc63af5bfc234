"""AUC: how often a positive stands above a negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give ranks from 1, ties sharing their mean."""
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    ranks: NDArray[np.float64] = (last - (size - 1) / 2.0)[group]
    return ranks


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Give the chance that a random positive scores above a random negative, ties counting half.

    By the rank sum of the positives (Mann-Whitney), so it is exact and costs one sort. NaN when one
    class is missing. Source: Hanley & McNeil 1982, "The meaning and use of the area under a
    receiver operating characteristic (ROC) curve".

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = mean_ranks(scores)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
