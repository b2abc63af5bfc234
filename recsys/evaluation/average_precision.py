"""Average precision@k: precision averaged over the places of the hits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Bools, Int64s

Float64s = NDArray[np.float64]


def average_precision_at_k(hits: Bools, relevant: Int64s, *, k: int) -> Float64s:
    """Give ``[B]`` the mean of precision@i over hit places i, divided by ``min(k, relevant)``.

    Its mean over users is MAP. Empty truth is NaN.

    >>> average_precision_at_k(np.array([[True, False, True]]), np.array([2]), k=3).round(4)
    array([0.8333])
    """
    top = hits[:, :k]
    places = np.arange(1, top.shape[1] + 1)
    precision = top.cumsum(axis=1) / places
    total = (precision * top).sum(axis=1)
    return np.where(relevant > 0, total / np.clip(relevant, 1, k), np.nan)
