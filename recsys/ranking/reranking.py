"""The last step: from the best candidates to the list that is shown."""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Float32s, Int32s
from recsys.ranking.category_cap import cap_per_category
from recsys.ranking.mmr import maximal_marginal_relevance
from recsys.ranking.ranked import RankedItems
from recsys.wire import MAX_K, RecommendRequest

CHOICE_FACTOR = 5
"""Re-ranking chooses from so many times ``k`` candidates."""
MIN_CHOICE = 100
"""But at least from these: a short list needs room too."""


def candidates_needed(request: RecommendRequest) -> int:
    """Give how many ranked items a request's re-ranking wants to choose from."""
    plain = not request.diversity and request.max_per_category is None
    if plain and not request.objective_weights:
        return request.k
    return min(MAX_K, max(MIN_CHOICE, CHOICE_FACTOR * request.k))


def rerank(
    ranked: RankedItems,
    category_index: Int32s,
    *,
    k: int,
    diversity: float,
    max_per_category: int | None,
) -> RankedItems:
    """Give the ``k`` items to show, in order. The cap comes last, so it has the last word.

    Args:
        ranked: Candidates, best first.
        category_index: ``[N + 1]`` category of each row, -1 for none.
        k: Length wanted.
        diversity: See ``mmr``; 0 leaves the order alone.
        max_per_category: See ``category_cap``; ``None`` leaves the list alone.
    """
    if diversity > 0 and len(ranked):
        length = len(ranked) if max_per_category is not None else k
        vectors = _one_hot(category_index[ranked.item_index])
        ranked = ranked.take(
            maximal_marginal_relevance(ranked.score, vectors, diversity=diversity, k=length)
        )
    if max_per_category is not None:
        categories = category_index[ranked.item_index]
        ranked = ranked.take(cap_per_category(categories, limit=max_per_category, k=k))
    return ranked.first(k)


def _one_hot(category_index: Int32s) -> Float32s:
    present = np.unique(category_index[category_index >= 0])
    vectors: Float32s = (category_index[:, np.newaxis] == present).astype(np.float32)
    return vectors
