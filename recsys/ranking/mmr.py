"""Maximal marginal relevance: each next item is good and unlike those already chosen.

Source: Carbonell and Goldstein, "The use of MMR", SIGIR 1998, equation in section 2. We differ in
that relevance is min-max scaled within the list first, so that ``diversity`` means the same for
every score, and that similarity is whatever vectors are given: with one-hot categories, items of
one category are alike and all others are not.

Axes: ``C`` candidates, ``D`` vector.
"""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Float32s
from recsys.ranking.category_cap import Places


def maximal_marginal_relevance(
    score: Float32s, vector: Float32s, *, diversity: float, k: int
) -> Places:
    """Give the places of the ``k`` chosen items, in the order chosen.

    Args:
        score: ``[C]`` relevance, finite.
        vector: ``[C, D]`` of length 1, or 0 for an item that is like none; dot product is
            similarity.
        diversity: 0 keeps the order of ``score``; 1 looks at similarity only.
        k: Length wanted; fewer come back only when there are fewer candidates.
    """
    num_candidates = len(score)
    k = min(k, num_candidates)
    if k == 0:
        return np.empty(0, dtype=np.intp)
    # Best first, so that of candidates whose scaled scores are equal the better one is taken.
    order = np.argsort(-score, kind="stable")
    score, vector = score[order], vector[order]
    span = float(score[0] - score[-1])
    relevance = (score - score[-1]) / span if span > 0 else np.zeros_like(score)
    closest = np.zeros(num_candidates, dtype=np.float32)
    open_ = np.ones(num_candidates, dtype=bool)
    chosen: list[int] = []
    for _ in range(k):
        value = (1.0 - diversity) * relevance - diversity * closest
        best = int(np.argmax(np.where(open_, value, -np.inf)))  # the earlier of equals
        chosen.append(best)
        open_[best] = False
        np.maximum(closest, vector @ vector[best], out=closest)
    return order[chosen]
