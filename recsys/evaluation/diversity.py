"""Intra-list diversity: how unlike each other the items of one list are.

Axes: ``B`` users, ``K`` places, ``D`` vector length, ``N`` items. Item 0 pads and is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
_CHUNK_VALUES = 16_000_000
"""Gathered vector entries at a time: 128 MB."""


def vector_diversity_at_k(
    ranked: NDArray[np.integer], vectors: NDArray[np.floating], *, k: int
) -> Float64s:
    """Give ``[B]`` the mean ``1 - cosine`` over all pairs of items in the first ``k``.

    Args:
        ranked: ``[B, K]`` item rows, 0 pads.
        vectors: ``[N + 1, D]`` of any length; one of length 0 is unlike everything (cosine 0).
        k: Places looked at.

    The pairs are not walked: the cosines of a list's pairs sum to ``(|sum of unit vectors|^2 - m) /
    2`` for ``m`` items that have a vector, so it takes O(B K D). Fewer than two items are NaN.
    Source: Ziegler et al. 2005, "Improving recommendation lists through topic diversification",
    eq. 1, as a distance and as a mean over pairs.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
    has_vector = length[:, 0] > 0
    top = ranked[:, :k]
    out = np.full(len(top), np.nan)
    step = max(_CHUNK_VALUES // max(top.shape[1] * vectors.shape[1], 1), 1)
    for begin in range(0, len(top), step):
        rows = top[begin : begin + step]
        shown = rows != 0
        total = (unit[rows] * shown[:, :, None]).sum(axis=1)
        cosines = (np.square(total).sum(axis=1) - (shown & has_vector[rows]).sum(axis=1)) / 2
        out[begin : begin + step] = _mean_distance(cosines, shown.sum(axis=1))
    return out


def category_diversity_at_k(
    ranked: NDArray[np.integer], category: NDArray[np.integer], *, k: int
) -> Float64s:
    """Give ``[B]`` the share of pairs in the first ``k`` whose items are of different categories.

    ``category`` ``[N + 1]`` is a code of 0 or more; -1 is none known, and unlike every other. Fewer
    than two items are NaN. It is the Gini-Simpson index of the list, without replacement (Simpson
    1949, "Measurement of diversity").

    >>> category_diversity_at_k(np.array([[1, 2, 3]]), np.array([-1, 7, 7, 8]), k=3).round(3)
    array([0.667])
    """
    top = ranked[:, :k]
    shown = top != 0
    found = category[top]
    known = shown & (found >= 0)
    span = int(found.max(initial=0)) + 1
    keys = np.arange(len(top))[:, None] * span + found
    pair, size = np.unique(keys[known], return_counts=True)
    alike = size * (size - 1) / 2.0
    same = np.bincount(pair // span, alike, minlength=len(top)).astype(np.float64)
    return _mean_distance(same, shown.sum(axis=1))


def _mean_distance(similarity: Float64s, num_items: NDArray[np.integer]) -> Float64s:
    """Give 1 less the mean similarity of the pairs, from their sum."""
    pairs = num_items * (num_items - 1) / 2.0
    return np.where(pairs > 0, 1.0 - similarity / np.maximum(pairs, 1), np.nan)
