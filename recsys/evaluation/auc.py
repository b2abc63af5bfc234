"""AUC and gAUC: how often a positive stands above a negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give ranks from 1, ties sharing their mean."""
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    ranks: NDArray[np.float64] = (last - (size - 1) / 2.0)[group]
    return ranks


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Give the chance that a random positive scores above a random negative, ties counting half.

    NaN when one class is missing.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = _ranks(scores)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def grouped_auc(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], group: NDArray[np.integer]
) -> float:
    """Give AUC within each group (user), averaged with the group's number of rows as weight.

    Groups with one class are left out; NaN when all are.
    Source: Zhu et al. 2017, "Optimized cost per click in Taobao display advertising", eq. 8.
    """
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    total = weight = 0.0
    for rows in np.split(order, starts[1:]):
        value = auc(scores[rows], labels[rows])
        if not np.isnan(value):
            total += value * len(rows)
            weight += len(rows)
    return total / weight if weight else float("nan")
