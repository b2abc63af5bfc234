"""Diversity as volume: the list whose items span most, weighted by their relevance.

A determinantal point process gives a list ``Y`` the weight ``det L_Y``, with
``L = diag(q) S diag(q)``: quality times likeness times quality. Finding the heaviest list is
NP-hard; the greedy one is built here exactly, by keeping the Cholesky factor of ``S_Y`` as ``Y``
grows, so that adding the n-th item costs ``O(n C)`` and a list ``O(k² C)``.

Source: Chen, Zhang & Zhou 2018, "Fast Greedy MAP Inference for Determinantal Point Process to
Improve Recommendation Diversity", algorithm 1 and equation 12 (``log det L_Y`` as a trade of
relevance against diversity). We differ in three ways. Quality stays outside the factor, which
equation 12 allows, so that no exponential overflows. Likeness is ``(1 + cosine) / 2``, as in their
section 5, without which opposites would look alike. And a share ``RIDGE`` of every item is its own,
so that the list goes on past the rank of ``S`` (as many items as categories) instead of ending.

Axes: ``C`` candidates, ``k`` places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Float32s
from recsys.ranking.category_cap import Places
from recsys.ranking.similarity import Float64s, Similarity
from recsys.ranking.worth import spread_of

RIDGE = 0.01
"""Share of an item that no other item can have: the volume of a twin is this, not 0."""


class DeterminantalGain:
    """``Worth`` under a DPP: ``(1 - λ) r + λ s log d²``.

    ``d²`` is what is left of an item's squared length outside the span of the list above, from
    ``RIDGE`` (a twin stands there) to 1 (nothing does), and the next factor of ``det S_Y``.
    """

    is_constant = False

    def __init__(
        self, relevance: Float64s, similarity: Similarity, *, diversity: float, k: int
    ) -> None:
        """Take ``[C]`` relevance; ``diversity`` is λ, ``s`` is ``spread_of(relevance)``."""
        self.slope = 1.0 - diversity
        self._own = self.slope * relevance
        self._price = diversity * spread_of(relevance)
        self._similarity = similarity
        self._left = np.ones(len(relevance))
        self._factor = np.empty((k, len(relevance)))
        self._length = 0

    def now(self) -> Float64s:
        """See ``Worth.now``."""
        return self._own + self._price * np.log(self._left)

    def add(self, place: int) -> None:
        """See ``Worth.add``. Raises IndexError past ``k`` items."""
        above = self._factor[: self._length]
        row = kernel_row(self._similarity, place) - above[:, place] @ above
        row /= np.sqrt(self._left[place])
        self._factor[self._length] = row
        self._length += 1
        self._left -= row * row
        # Mathematically never below; rounding may say otherwise.
        np.maximum(self._left, RIDGE, out=self._left)


def kernel_row(similarity: Similarity, place: int) -> NDArray[np.float64]:
    """Give row ``place`` of ``S``: ``[C]``, 1 at ``place``, elsewhere at most ``1 - RIDGE``."""
    alike: NDArray[np.float64] = similarity.row(place).astype(np.float64)
    alike += 1.0
    alike *= 0.5 * (1.0 - RIDGE)
    alike[place] = 1.0
    return alike


def determinantal_greedy(
    score: Float32s, similarity: Similarity, *, diversity: float, k: int
) -> Places:
    """Give the places of the greedy list of ``k``, in the order chosen.

    The arguments are those of ``mmr.maximal_marginal_relevance``.
    """
    order = np.argsort(-score, kind="stable")
    k = min(k, len(score))
    relevance = score[order].astype(np.float64)
    worth = DeterminantalGain(relevance, similarity.take(order), diversity=diversity, k=k)
    taken = np.zeros(len(score))
    chosen = np.empty(k, dtype=np.intp)
    for position in range(k):
        best = int(np.argmax(worth.now() + taken))
        chosen[position] = best
        taken[best] = -np.inf
        worth.add(best)
    return order[chosen]
