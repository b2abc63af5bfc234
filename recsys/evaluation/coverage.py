"""Catalogue coverage: how much of the catalogue the lists show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coverage_at_k(ranked: NDArray[np.integer], *, num_items: int, k: int) -> float:
    """Give the share of the ``num_items`` items that appear in some list. NaN without items.

    It grows with the number of users, so compare it over the same ones only.
    Source: Ge, Delgado-Battenfeld & Jannach 2010, "Beyond accuracy", section 3.1.

    >>> coverage_at_k(np.array([[1, 2], [2, 0]]), num_items=4, k=2)
    0.5
    """
    shown = np.unique(ranked[:, :k])
    return float((shown != 0).sum() / num_items) if num_items else float("nan")
