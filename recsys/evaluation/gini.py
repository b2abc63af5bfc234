"""The Gini index: how unevenly the lists share out exposure over the catalogue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gini_index(amount: NDArray[np.number]) -> float:
    """Give the Gini index of ``[N]`` amounts, none negative: 0 all equal, near 1 one has all.

    ``sum_i (2 i - N - 1) x_(i) / (N sum x)`` over the amounts in rising order. NaN when there is
    nothing to share. Source: Gini 1912; as in Fleder & Hosanagar 2009, "Blockbuster culture's next
    rise or fall".
    """
    rising = np.sort(np.asarray(amount, dtype=np.float64))
    total = rising.sum()
    if not total > 0:
        return float("nan")
    places = np.arange(1, len(rising) + 1)
    return float((2 * places - len(rising) - 1) @ rising / (len(rising) * total))


def gini_at_k(ranked: NDArray[np.integer], *, num_items: int, k: int) -> float:
    """Give the Gini index of exposure over all items: 0 even, near 1 all on one item.

    Items never shown count with exposure 0. NaN when nothing was shown.

    >>> gini_at_k(np.array([[1, 2], [3, 4]]), num_items=4, k=2)
    0.0
    """
    return gini_index(np.bincount(ranked[:, :k].ravel(), minlength=num_items + 1)[1:])
