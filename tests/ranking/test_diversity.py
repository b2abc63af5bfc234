"""Determinantal diversity against determinants computed from the definition."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking.dpp import RIDGE, DeterminantalGain, determinantal_greedy, kernel_row
from recsys.ranking.similarity import CategorySimilarity, Similarity, VectorSimilarity
from recsys.ranking.worth import spread_of


def log_volume(similarity: Similarity, places: tuple[int, ...], num: int) -> float:
    kernel = np.stack([kernel_row(similarity, place) for place in range(num)])
    return float(np.linalg.slogdet(kernel[np.ix_(places, places)])[1])


def weight(
    score: np.ndarray, similarity: Similarity, places: tuple[int, ...], diversity: float
) -> float:
    """Give log det L_Y from the definition (Chen et al. 2018, equation 12)."""
    relevance = float(score[list(places)].sum())
    volume = log_volume(similarity, places, len(score))
    return (1 - diversity) * relevance + diversity * spread_of(score) * volume


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 6),
    size=st.integers(1, 5),
    diversity=st.floats(0, 1),
)
def test_each_greedy_step_is_the_best_by_determinants(
    seed: int, num: int, size: int, diversity: float
) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=num).astype(np.float32)
    similarity = VectorSimilarity(rng.normal(size=(num, size)).astype(np.float32))
    wide = score.astype(np.float64)
    chosen = determinantal_greedy(score, similarity, diversity=diversity, k=num).tolist()
    assert sorted(chosen) == list(range(num))
    for step in range(num):
        above = tuple(chosen[:step])
        best = max(
            weight(wide, similarity, (*above, other), diversity)
            for other in range(num)
            if other not in above
        )
        taken = weight(wide, similarity, (*above, chosen[step]), diversity)
        assert taken == pytest.approx(best, abs=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), diversity=st.floats(0, 1))
def test_gains_are_the_factors_of_the_determinant(seed: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    relevance = rng.normal(size=8)
    similarity = VectorSimilarity(rng.normal(size=(8, 3)).astype(np.float32))
    worth = DeterminantalGain(relevance, similarity, diversity=diversity, k=5)
    total, chosen = 0.0, tuple(rng.permutation(8)[:5].tolist())
    for place in chosen:
        total += float(worth.now()[place])
        worth.add(place)
    assert total == pytest.approx(weight(relevance, similarity, chosen, diversity), abs=1e-6)


def test_greedy_finds_the_heaviest_list_of_all_where_categories_decide() -> None:
    score = np.array([3.0, 2.9, 2.8, 1.0, 0.9, 0.0], dtype=np.float32)
    categories = CategorySimilarity(np.array([0, 0, 0, 1, 1, 2], dtype=np.int32))
    for k in (1, 2, 3, 4):
        found = tuple(determinantal_greedy(score, categories, diversity=0.6, k=k).tolist())
        best = max(
            combinations(range(6), k),
            key=lambda places: weight(score.astype(np.float64), categories, places, 0.6),
        )
        assert sorted(found) == list(best), k
    # One of each category first, then the best again.
    assert determinantal_greedy(score, categories, diversity=0.6, k=4).tolist()[:3] == [0, 3, 5]


def test_greedy_is_near_the_heaviest_list_of_random_vectors() -> None:
    rng = np.random.default_rng(11)
    shortfalls = []
    for _ in range(20):
        similarity = VectorSimilarity(rng.normal(size=(8, 4)).astype(np.float32))
        score = np.zeros(8, dtype=np.float32)
        found = tuple(determinantal_greedy(score, similarity, diversity=1.0, k=4).tolist())
        every = [log_volume(similarity, places, 8) for places in combinations(range(8), 4)]
        shortfalls.append(max(every) - log_volume(similarity, found, 8))
    assert min(shortfalls) > -1e-9, "nothing is heavier than the heaviest"
    assert float(np.median(shortfalls)) < 0.25


def test_a_list_goes_on_past_the_rank_of_the_kernel() -> None:
    twins = VectorSimilarity(np.ones((5, 2), dtype=np.float32))
    score = np.array([1, 5, 3, 4, 2], dtype=np.float32)
    assert determinantal_greedy(score, twins, diversity=0.5, k=5).tolist() == [1, 3, 2, 4, 0]
    worth = DeterminantalGain(np.zeros(5), twins, diversity=1.0, k=5)
    worth.add(0)
    assert np.exp(worth.now()[1]) == pytest.approx(1 - (1 - RIDGE) ** 2, rel=1e-4)


def test_no_order_of_the_candidates_changes_the_list() -> None:
    rng = np.random.default_rng(3)
    score = rng.normal(size=5).astype(np.float32)
    vectors = rng.normal(size=(5, 3)).astype(np.float32)
    lists = set()
    for order in permutations(range(5)):
        at = np.array(order)
        found = determinantal_greedy(score[at], VectorSimilarity(vectors[at]), diversity=0.5, k=4)
        lists.add(tuple(at[found].tolist()))
    assert len(lists) == 1
