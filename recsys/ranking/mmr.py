"""Diversity: each next item trades its relevance against its likeness to the list above it.

Source: maximal marginal relevance, Carbonell & Goldstein 1998, equation 2. We differ in that
likeness counts in units of the distance between best and worst candidate, so that ``diversity``
means the same for every score, and never below 0: an opposite is no better than a stranger.

Axes: ``C`` candidates.
"""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Float32s
from recsys.ranking.category_cap import Places
from recsys.ranking.similarity import Float64s, Similarity
from recsys.ranking.worth import spread_of


class MarginalRelevance:
    """``Worth`` under maximal marginal relevance: ``(1 - λ) r - λ s max(likeness above)``."""

    is_constant = False

    def __init__(self, relevance: Float64s, similarity: Similarity, *, diversity: float) -> None:
        """Take ``[C]`` relevance; ``diversity`` is λ, ``s`` is ``spread_of(relevance)``."""
        self.slope = 1.0 - diversity
        self._own = self.slope * relevance
        self._price = diversity * spread_of(relevance)
        self._similarity = similarity
        self._closest = np.zeros(len(relevance))

    def now(self) -> Float64s:
        """See ``Worth.now``."""
        return self._own - self._price * self._closest

    def add(self, place: int) -> None:
        """See ``Worth.add``."""
        np.maximum(self._closest, self._similarity.row(place), out=self._closest)


def maximal_marginal_relevance(
    score: Float32s, similarity: Similarity, *, diversity: float, k: int
) -> Places:
    """Give the places of the ``k`` chosen items, in the order chosen.

    Of candidates worth the same, the one with the better score is taken, then the earlier.

    Args:
        score: ``[C]`` relevance, finite.
        similarity: Of the same candidates.
        diversity: 0 keeps the order of ``score``; 1 looks at likeness only.
        k: Length wanted; fewer come back only when there are fewer candidates.
    """
    order = np.argsort(-score, kind="stable")
    relevance = score[order].astype(np.float64)
    worth = MarginalRelevance(relevance, similarity.take(order), diversity=diversity)
    taken = np.zeros(len(score))
    chosen = np.empty(min(k, len(score)), dtype=np.intp)
    for position in range(len(chosen)):
        best = int(np.argmax(worth.now() + taken))
        chosen[position] = best
        taken[best] = -np.inf
        worth.add(best)
    return order[chosen]
