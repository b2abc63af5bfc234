"""On-demand features of the tests: pure functions over arrays, named by import path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def weighed(score: Floats, factor: Floats) -> NDArray[np.float64]:
    """Give ``[B, 2]``: a score times a factor of the request, and their ratio (x / 0 is 0)."""
    score, factor = np.nan_to_num(score), np.asarray(factor, dtype=np.float64)
    ratio = np.divide(score, factor, out=np.zeros(len(score)), where=factor != 0)
    return np.stack([score * factor, ratio], axis=1)


def unfit(score: Floats) -> Floats:
    """Give ``[B]`` where ``[B, outputs]`` is wanted."""
    return score


def unheard_of(score: Floats, weather: Floats) -> Floats:
    """Want an input that no source has."""
    return score * weather


def keenness(
    of_user: Floats, of_item: Floats, price: Floats, as_of_ms: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Give ``[B, 2]``: how keen a user is on an item at a price, with functions that round."""
    hour = as_of_ms / 3_600_000 % 24
    keen = np.log1p(np.abs(of_user)) * np.exp(-np.abs(of_item) / 3) / np.sqrt(1 + price)
    return np.stack([keen, keen * np.sin(2 * np.pi * hour / 24)], axis=1)
