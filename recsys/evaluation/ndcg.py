"""NDCG@k: how far up the relevant items stand, against the best possible list."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Bools, Int64s

Float64s = NDArray[np.float64]


def ndcg_at_k(hits: Bools, relevant: Int64s, *, k: int) -> Float64s:
    """Give ``[B]`` binary NDCG: sum of ``1 / log2(place + 1)`` over hits, over the ideal sum.

    The ideal list holds ``min(k, relevant)`` relevant items on top. Empty truth is NaN.
    Source: Järvelin & Kekäläinen 2002, with gains 0 and 1 and Burges et al.'s discount.

    >>> ndcg_at_k(np.array([[False, True]]), np.array([1]), k=2).round(4)
    array([0.6309])
    """
    width = min(k, hits.shape[1])
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    gained = (hits[:, :width] * discount[:width]).sum(axis=1)
    ideal = np.cumsum(discount)[np.clip(relevant, 1, k) - 1]
    return np.where(relevant > 0, gained / ideal, np.nan)
