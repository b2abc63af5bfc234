"""What holds for every list, whatever is asked of it together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import HOUR_MS
from recsys.ranking.category_cap import cap_per_category
from recsys.ranking.category_limits import CategoryBounds, CategoryCount
from recsys.ranking.choose import choose
from recsys.ranking.exploration import Epsilon, Softmax, Thompson
from recsys.ranking.operator_rules import NO_RULES
from recsys.ranking.request_rules import applying, bind
from recsys.ranking.reranking import Diversity, Exploring, rerank
from recsys.ranking.worth import RelevanceAlone
from recsys.wire import Boost, Freshness, Pin, RecommendRequest
from tests.inference.toy_bundle import BORN_MS, toy_bundle
from tests.ranking.lists import ranked

BUNDLE = toy_bundle(num_items=20)
BOUND = bind(NO_RULES, BUNDLE)
CATEGORIES = ("books", "mugs", "tea")
NOW_MS = BORN_MS + 20 * HOUR_MS
POLICIES = [None, Epsilon(epsilon=0.5), Softmax(), Thompson(), Softmax(first_position=2)]


@settings(max_examples=60)
@given(
    scores=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    k=st.integers(1, 25),
    diversity=st.builds(
        Diversity,
        amount=st.just(0.0) | st.floats(0, 1),
        method=st.sampled_from(["mmr", "dpp"]),
        by=st.sampled_from(["category", "embedding"]),
    ),
    each=st.none() | st.integers(1, 4),
    most=st.dictionaries(st.sampled_from(CATEGORIES), st.integers(0, 4)),
    least=st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 4)),
    pins=st.lists(st.tuples(st.integers(1, 22), st.integers(0, 24)), max_size=4),
    boosts=st.lists(st.builds(Boost, factor=st.floats(0.1, 10), categories=st.just(["tea"]))),
    fresh=st.none() | st.just(Freshness(factor=3.0, half_life_h=4.0)),
    policy=st.sampled_from(POLICIES),
    request_id=st.sampled_from(["r1", "r2", "r3"]),
)
def test_every_list_is_full_distinct_pinned_and_capped(
    scores: list[float],
    k: int,
    diversity: Diversity,
    each: int | None,
    most: dict[str, int],
    least: dict[str, int],
    pins: list[tuple[int, int]],
    boosts: list[Boost],
    fresh: Freshness | None,
    policy: Epsilon | Softmax | Thompson | None,
    request_id: str,
) -> None:
    request = RecommendRequest(
        user_id="u", k=k, max_per_category=each, most_by_category=most, least_by_category=least,
        boosts=boosts, freshness=fresh,
        pins=[Pin(item_id=f"item-{row}", position=position) for row, position in pins],
    )  # fmt: skip
    rules = applying(request, BUNDLE, BOUND, now_ms=NOW_MS, user_tokens=frozenset())

    def listed() -> tuple[list[int], list[float]]:
        found = rerank(
            ranked(scores), BUNDLE, k=k, are_probabilities=False, diversity=diversity,
            applying=rules, now_ms=NOW_MS,
            exploring=policy and Exploring(policy=policy, user_id="u", request_id=request_id),
        )  # fmt: skip
        return found.ranked.item_index.tolist(), found.propensities.tolist()

    shown, propensities = listed()
    assert (shown, propensities) == listed(), "the same request, the same list"
    length = min(k, len(scores))
    assert len(shown) == len(set(shown)) == len(propensities) == length
    assert set(shown) <= set(range(1, len(scores) + 1))
    assert all(0 < chance <= 1 for chance in propensities)
    here = [pin for pin in rules.pins if pin.row <= len(scores)]
    for pin in here:
        if pin.position < length:
            if all(other.position < length for other in here):
                assert shown[pin.position] == pin.row
                assert propensities[pin.position] == 1.0
        else:
            assert pin.row in shown
    pinned = {pin.row for pin in here}
    of = {name: [r for r in range(1, len(scores) + 1) if r % 3 == c] for c, name in
          enumerate(CATEGORIES)}  # fmt: skip
    cap = {name: min(most.get(name, 99), each or 99) for name in CATEGORIES}
    room = sum(
        max(min(cap[name], len(of[name])), len(pinned & set(of[name]))) for name in CATEGORIES
    )
    for name in CATEGORIES:
        own = len(set(shown) & set(of[name]))
        forced = len(pinned & set(of[name]))
        if room >= length:  # a list within all caps exists
            assert own <= max(cap[name], forced), name
        if not pins and sum(min(n, cap[c], len(of[c])) for c, n in least.items()) <= length:
            assert own >= min(least.get(name, 0), cap[name], len(of[name])), name


@given(
    categories=st.lists(st.integers(-1, 3), min_size=1, max_size=25),
    limit=st.integers(1, 4),
    k=st.integers(1, 30),
)
def test_one_cap_is_the_same_place_by_place_and_in_one_pass(
    categories: list[int], limit: int, k: int
) -> None:
    category = np.array(categories, dtype=np.int32)
    length = min(k, len(category))
    chosen = choose(
        RelevanceAlone(-np.arange(len(category), dtype=np.float64)),
        len(category),
        length=length,
        pins={},
        count=CategoryCount(category, CategoryBounds(most_of_each=limit), length=length),
    )
    assert chosen.places.tolist() == cap_per_category(category, limit=limit, k=k).tolist()
