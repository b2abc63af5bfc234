"""Catalogue coverage and concentration: how much of the catalogue the lists show, how evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coverage_at_k(ranked: NDArray[np.integer], *, num_items: int, k: int) -> float:
    """Give the share of the ``num_items`` items that appear in some list. NaN without items.

    >>> coverage_at_k(np.array([[1, 2], [2, 0]]), num_items=4, k=2)
    0.5
    """
    shown = np.unique(ranked[:, :k])
    return float((shown != 0).sum() / num_items) if num_items else float("nan")


def gini_at_k(ranked: NDArray[np.integer], *, num_items: int, k: int) -> float:
    """Give the Gini index of exposure over all items: 0 even, near 1 all on one item.

    Items never shown count with exposure 0. NaN when nothing was shown.

    >>> gini_at_k(np.array([[1, 2], [3, 4]]), num_items=4, k=2)
    0.0
    """
    exposure = np.sort(np.bincount(ranked[:, :k].ravel(), minlength=num_items + 1)[1:])
    total = exposure.sum()
    if total == 0:
        return float("nan")
    places = np.arange(1, num_items + 1)
    return float((2 * places - num_items - 1) @ exposure / (num_items * total))
