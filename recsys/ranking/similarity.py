"""How alike the candidates of one request are, a row at a time: what diversity is measured by.

Axes: ``C`` candidates, ``D`` embedding.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Float32s, Int32s

Float64s = NDArray[np.float64]


class Similarity(Protocol):
    """Cosines between candidates: symmetric, positive semi-definite, from -1 to 1."""

    def row(self, place: int) -> NDArray[np.floating]:
        """Give ``[C]``: how alike each candidate is to the one at ``place``, itself included."""

    def take(self, places: NDArray[np.intp]) -> Similarity:
        """Give the similarity of the candidates at ``places``, in that order."""


class CategorySimilarity:
    """1 within a category, 0 across; an item without one (-1) is like no other."""

    def __init__(self, category_index: Int32s) -> None:
        """Take ``[C]`` categories."""
        self._category = category_index

    def row(self, place: int) -> NDArray[np.floating]:
        """See ``Similarity.row``."""
        category = self._category[place]
        if category < 0:
            alike = np.zeros(len(self._category))
            alike[place] = 1.0
            return alike
        same: Float64s = (self._category == category).astype(np.float64)
        return same

    def take(self, places: NDArray[np.intp]) -> CategorySimilarity:
        """See ``Similarity.take``."""
        return CategorySimilarity(self._category[places])


class VectorSimilarity:
    """Cosine of item embeddings; a vector of zeros is like no other item."""

    def __init__(self, vector: Float32s) -> None:
        """Take ``[C, D]`` of any length."""
        norm = np.linalg.norm(vector, axis=1, keepdims=True)
        self._vector: Float32s = np.divide(vector, norm, out=np.zeros_like(vector), where=norm > 0)

    def row(self, place: int) -> NDArray[np.floating]:
        """See ``Similarity.row``."""
        alike: Float32s = self._vector @ self._vector[place]
        return alike

    def take(self, places: NDArray[np.intp]) -> VectorSimilarity:
        """See ``Similarity.take``."""
        taken = object.__new__(VectorSimilarity)
        taken._vector = self._vector[places]
        return taken
