"""gAUC: AUC within each user, so that telling users apart earns nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


def auc_by_group(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], group: NDArray[np.integer]
) -> tuple[Float64s, Float64s]:
    """Give ``[G]`` AUC of each distinct group, ascending, and ``[G]`` its number of rows.

    One sort of all rows, whatever the number of groups. A group with one class is NaN.
    """
    if len(scores) == 0:
        return np.zeros(0), np.zeros(0)
    _, code = np.unique(group, return_inverse=True)
    order = np.lexsort((scores, code))
    code, value, label = code[order], scores[order], labels[order].astype(np.float64)
    rows = np.bincount(code).astype(np.float64)
    starts = np.cumsum(rows) - rows
    # Ranks from 1 within the group, ties sharing their mean.
    begins = np.r_[True, (np.diff(code) != 0) | (np.diff(value) != 0)]
    tie = np.cumsum(begins) - 1
    size = np.bincount(tie)
    last = np.cumsum(size)
    rank = (last - (size - 1) / 2.0)[tie] - starts[code]
    positives = np.bincount(code, label)
    negatives = rows - positives
    rank_sum = np.bincount(code, rank * label)
    pairs = positives * negatives
    wins = rank_sum - positives * (positives + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan), rows


def grouped_auc(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], group: NDArray[np.integer]
) -> float:
    """Give AUC within each group (user), averaged with the group's number of rows as weight.

    Groups with one class are left out; NaN when all are.
    Source: Zhu et al. 2017, "Optimized cost per click in Taobao display advertising", eq. 8.

    >>> grouped_auc(np.array([0.9, 0.1, 0.3, 0.7]), np.array([True, False, True, False]),
    ...             np.array([1, 1, 2, 2]))
    0.5
    """
    value, rows = auc_by_group(scores, labels, group)
    judged = ~np.isnan(value)
    return float(np.average(value[judged], weights=rows[judged])) if judged.any() else float("nan")
