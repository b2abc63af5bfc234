"""Recall@k: the share of the relevant items that the list holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Bools, Int64s

Float64s = NDArray[np.float64]


def recall_at_k(hits: Bools, relevant: Int64s, *, k: int) -> Float64s:
    """Give ``[B]`` hits among the first ``k`` divided by *all* relevant items.

    Some authors divide by ``min(k, relevant)``; then a user with many relevant items can reach 1.
    Here they cannot, and figures are lower. Empty truth is NaN: there was nothing to find.

    >>> recall_at_k(np.array([[True, False]]), np.array([4]), k=2)
    array([0.25])
    """
    found = hits[:, :k].sum(axis=1)
    return np.where(relevant > 0, found / np.maximum(relevant, 1), np.nan)
