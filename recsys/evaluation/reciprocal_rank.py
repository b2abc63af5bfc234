"""Reciprocal rank@k: one over the place of the first relevant item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Bools, Int64s

Float64s = NDArray[np.float64]


def reciprocal_rank_at_k(hits: Bools, relevant: Int64s, *, k: int) -> Float64s:
    """Give ``[B]`` ``1 / place`` of the first hit within ``k``, 0 without one, NaN without truth.

    Its mean over users is MRR.

    >>> reciprocal_rank_at_k(np.array([[False, True]]), np.array([3]), k=2)
    array([0.5])
    """
    top = hits[:, :k]
    first = top.argmax(axis=1) + 1
    return np.where(relevant > 0, np.where(top.any(axis=1), 1.0 / first, 0.0), np.nan)
