"""Hit rate@k: whether the list holds anything relevant at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Bools, Int64s

Float64s = NDArray[np.float64]


def hit_rate_at_k(hits: Bools, relevant: Int64s, *, k: int) -> Float64s:
    """Give ``[B]`` 1 where one of the first ``k`` is relevant, else 0. Empty truth is NaN.

    >>> hit_rate_at_k(np.array([[False, True], [False, False]]), np.array([1, 0]), k=2)
    array([ 1., nan])
    """
    return np.where(relevant > 0, hits[:, :k].any(axis=1).astype(np.float64), np.nan)
