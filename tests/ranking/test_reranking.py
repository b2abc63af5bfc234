from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.ranking.blending import blend, check_weights
from recsys.ranking.category_cap import cap_per_category
from recsys.ranking.category_limits import CategoryBounds
from recsys.ranking.exploration import Policy, Softmax
from recsys.ranking.mmr import maximal_marginal_relevance
from recsys.ranking.request_rules import NOTHING_APPLIES, Applying
from recsys.ranking.reranking import candidates_needed
from recsys.ranking.similarity import VectorSimilarity
from recsys.wire import RecommendRequest

SCORES = st.lists(
    st.floats(-10, 10, width=32, allow_subnormal=False), min_size=1, max_size=30, unique=True
)


@given(scores=SCORES, k=st.integers(1, 40))
def test_without_diversity_mmr_is_the_order_of_scores(scores: list[float], k: int) -> None:
    score = np.array(scores, dtype=np.float32)
    vectors = np.eye(len(scores), dtype=np.float32)
    places = maximal_marginal_relevance(score, VectorSimilarity(vectors), diversity=0.0, k=k)
    assert score[places].tolist() == sorted(score.tolist(), reverse=True)[:k]


def test_mmr_by_hand() -> None:
    # Scaled relevance 1, 0.9, 0: at diversity 0.5 the second of the same kind is worth
    # 0.5 * 0.9 - 0.5 * 1 = -0.05, the third, unlike the first, 0.
    score = np.array([10.0, 9.0, 0.0], dtype=np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    alike = VectorSimilarity(vectors)
    assert maximal_marginal_relevance(score, alike, diversity=0.5, k=3).tolist() == [0, 2, 1]
    assert maximal_marginal_relevance(score, alike, diversity=0.4, k=3).tolist() == [0, 1, 2]


def test_cap_fills_up_with_what_is_over_it() -> None:
    categories = np.array([0, 0, 0, -1, -1, 1], dtype=np.int32)
    assert cap_per_category(categories, limit=1, k=4).tolist() == [0, 3, 4, 5]
    assert cap_per_category(categories, limit=1, k=6).tolist() == [0, 3, 4, 5, 1, 2]


def test_blend_by_hand_and_weights_that_are_refused() -> None:
    scores = np.array([[0.4, 0.0], [0.0, 0.2]], dtype=np.float32)
    assert blend(scores, ["a", "b"], {"a": 1, "b": 3}).tolist() == pytest.approx([0.1, 0.15])
    check_weights(["a", "b"], {})
    with pytest.raises(InputError, match="a, b") as caught:
        check_weights(["a", "b"], {"c": 1})
    assert caught.value.field == "objective_weights.c"
    with pytest.raises(InputError, match="above 0"):
        check_weights(["a", "b"], {"a": 0})


def test_reranking_asks_for_more_candidates_than_a_plain_list() -> None:
    def needed(
        policy: Policy | None = None, rules: Applying = NOTHING_APPLIES, **body: object
    ) -> int:
        return candidates_needed(RecommendRequest(user_id="u", **body), rules, policy)

    assert needed(k=7) == 7
    assert needed(k=7, diversity=0.3) == 100
    assert needed(k=7, policy=Softmax()) == 100
    assert needed(k=50, rules=Applying(bounds=CategoryBounds(most_of_each=2))) == 250
    assert needed(k=500, objective_weights={"click": 1}) == 500
