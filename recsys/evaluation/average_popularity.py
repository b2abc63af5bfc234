"""Average recommendation popularity: how well known what each user is shown already is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


def average_popularity_at_k(
    ranked: NDArray[np.integer], popularity: NDArray[np.number], *, k: int
) -> Float64s:
    """Give ``[B]`` the mean popularity of the items in the first ``k``; NaN for an empty list.

    ``popularity`` ``[N + 1]``: interactions of each item in training (or its share of them; the
    unit carries over). Its mean over users is ARP.
    Source: Yin et al. 2012, "Challenging the long tail recommendation", section 5.2; the name from
    Abdollahpouri et al. 2019, "Managing popularity bias", eq. 1.

    >>> average_popularity_at_k(np.array([[1, 2], [0, 0]]), np.array([0, 10, 4]), k=2)
    array([ 7., nan])
    """
    top = ranked[:, :k]
    shown = top != 0
    count = shown.sum(axis=1)
    total = (np.asarray(popularity, dtype=np.float64)[top] * shown).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
