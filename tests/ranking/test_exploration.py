"""What a policy says its chances are, against how often it draws; and what rests on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch

from recsys.ranking.category_limits import CategoryBounds, CategoryCount
from recsys.ranking.choose import Chance, Chosen, choose
from recsys.ranking.dpp import DeterminantalGain
from recsys.ranking.exploration import Epsilon, Policy, Softmax, Thompson
from recsys.ranking.mmr import MarginalRelevance
from recsys.ranking.plackett_luce import gumbel_top_k
from recsys.ranking.request_random import request_random
from recsys.ranking.similarity import CategorySimilarity
from recsys.ranking.thompson import chance_of_best, deviation_of
from recsys.ranking.worth import RelevanceAlone, Worth

RELEVANCE = np.array([1.0, 0.7, 0.4, 0.2, -0.5])
CATEGORY = np.array([0, 0, 1, 1, -1], dtype=np.int32)
DEVIATION = np.array([0.3, 0.5, 0.2, 1.0, 0.8])
POLICIES: list[Policy] = [
    Epsilon(epsilon=0.4), Softmax(temperature=0.7), Thompson(), Epsilon(epsilon=1.0, num_places=2),
    Softmax(temperature=0.7, first_position=1),
]  # fmt: skip
WORTHS: dict[str, Callable[[], Worth]] = {
    "alone": lambda: RelevanceAlone(RELEVANCE),
    "mmr": lambda: MarginalRelevance(RELEVANCE, CategorySimilarity(CATEGORY), diversity=0.4),
    "dpp": lambda: DeterminantalGain(RELEVANCE, CategorySimilarity(CATEGORY), diversity=0.2, k=3),
}
BOUNDS: dict[str, CategoryBounds | None] = {
    "free": None,
    "capped": CategoryBounds(most_of_each=1),
    "at least": CategoryBounds(least={1: 1}, most={0: 1}),
}
PINS = {"no pins": {}, "a pin": {1: 3}}


def chi_square_tail(statistic: float, freedom: int) -> float:
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def draw(
    policy: Policy,
    rng: np.random.Generator,
    worth: str = "alone",
    bounds: str = "free",
    pins: str = "no pins",
) -> Chosen:
    asked = BOUNDS[bounds]
    return choose(
        WORTHS[worth](),
        5,
        length=3,
        pins=PINS[pins],
        count=None if asked is None else CategoryCount(CATEGORY, asked, length=3),
        chance=Chance(policy=policy, rng=rng, deviation=DEVIATION),
    )


@pytest.mark.parametrize(
    ("worth", "bounds", "pins"),
    [
        ("alone", "free", "no pins"), ("alone", "free", "a pin"), ("alone", "capped", "no pins"),
        ("mmr", "free", "no pins"), ("mmr", "at least", "a pin"), ("dpp", "capped", "a pin"),
        ("dpp", "at least", "no pins"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.described())
def test_lists_are_drawn_as_often_as_their_propensities_say(
    policy: Policy, worth: str, bounds: str, pins: str
) -> None:
    """The product of a list's propensities is its chance: with the ones above, of each place."""
    rng = np.random.default_rng(17)
    num = 600
    found: Counter[tuple[int, ...]] = Counter()
    stated: dict[tuple[int, ...], float] = {}
    for _ in range(num):
        chosen = draw(policy, rng, worth, bounds, pins)
        key = tuple(chosen.places.tolist())
        found[key] += 1
        stated.setdefault(key, float(chosen.propensities.prod()))
        assert stated[key] == pytest.approx(float(chosen.propensities.prod())), (
            "one list, one chance"
        )
        assert len(set(key)) == 3
        for position, place in PINS[pins].items():
            assert (key[position], chosen.propensities[position]) == (place, 1.0)
    expected = {key: num * chance for key, chance in stated.items()}
    common = {key for key, count in expected.items() if count >= 5}
    rest_found = sum(count for key, count in found.items() if key not in common)
    rest_expected = max(num - sum(expected[key] for key in common), 0.0)
    observed = [found[key] for key in common] + ([rest_found] if rest_expected >= 1 else [])
    wanted = [expected[key] for key in common] + ([rest_expected] if rest_expected >= 1 else [])
    if rest_expected < 1:
        assert rest_found <= 8, "lists that hardly ever come"
    if len(observed) == 1:
        assert stated[next(iter(common))] == pytest.approx(1.0, abs=0.01)
        return
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    # 35 cases with one seed: below this by chance once in a thousand runs of all of them.
    assert chi_square_tail(statistic, len(observed) - 1) > 1e-5


def test_chances_of_a_place_add_up_to_one() -> None:
    deviation = np.array([0.1, 0.4, 1.0, 0.9])
    mean = np.array([0.5, 0.2, -0.3, 0.0])
    total = sum(chance_of_best(mean, deviation, place) for place in range(4))
    assert total == pytest.approx(1.0, abs=1e-4)


def test_chance_of_best_against_a_million_draws() -> None:
    rng = np.random.default_rng(5)
    mean, deviation = rng.normal(size=12), rng.uniform(0.1, 1.0, 12)
    draws = mean + deviation * rng.standard_normal((200_000, 12))
    share = np.bincount(draws.argmax(axis=1), minlength=12) / 2e5
    for place in range(12):
        chance = chance_of_best(mean, deviation, place)
        assert chance == pytest.approx(share[place], abs=4 * np.sqrt(0.25 / 2e5) + 1e-4)


def test_two_normals_by_the_closed_form() -> None:
    mean, deviation = np.array([0.3, 0.0]), np.array([0.2, 1.5])
    wanted = NormalDist().cdf(0.3 / float(np.hypot(0.2, 1.5)))
    assert chance_of_best(mean, deviation, 0) == pytest.approx(wanted, abs=1e-4)


def test_items_seen_less_are_less_certain() -> None:
    probability = np.array([0.1, 0.1, 0.1], dtype=np.float32)
    deviation = deviation_of(probability, np.array([0.0, 20.0, 1e9]), prior_strength=20.0)
    assert deviation[0] == pytest.approx(1 / np.sqrt(20 * 0.09), rel=1e-5)
    assert deviation[1] == pytest.approx(deviation[0] / np.sqrt(2))
    assert deviation[2] == pytest.approx(deviation[0] / 10), "the floor of the integral"


def test_gumbel_top_k_chances_by_hand() -> None:
    weight = np.log(np.array([5.0, 3.0, 2.0]))
    chosen, chance = gumbel_top_k(weight, 3, np.random.default_rng(2))
    left = 10.0
    for place, stated in zip(chosen.tolist(), chance.tolist(), strict=True):
        assert stated == pytest.approx(np.exp(weight[place]) / left)
        left -= np.exp(weight[place])
    first = [gumbel_top_k(weight, 2, np.random.default_rng(s))[0][0] for s in range(1_500)]
    assert np.bincount(first) / 1_500 == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_gumbel_top_k_with_weights_far_apart() -> None:
    chosen, chance = gumbel_top_k(np.array([800.0, 0.0, -800.0]), 3, np.random.default_rng(1))
    assert chosen.tolist() == [0, 1, 2]
    assert chance == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "policy", [Epsilon(epsilon=0.5), Softmax(temperature=1.0)], ids=lambda p: p.described()
)
def test_inverse_propensity_estimates_of_another_policy_are_unbiased(policy: Policy) -> None:
    """A log drawn by one policy values the greedy list as the truth does."""
    rng = np.random.default_rng(23)
    click = np.array([0.2, 0.6, 0.4, 0.5, 0.3])
    target = [0, 2, 4]  # a deterministic policy of another mind than the logging one
    truth = float(click[target].sum())
    estimates = []
    for _ in range(4_000):
        chosen = draw(policy, rng, "mmr", "capped")
        clicks = rng.random(3) < click[chosen.places]
        # Sequential importance weights: chance of the list up to the place, given what is above.
        follows = np.cumprod(chosen.places == target)
        weights = follows / np.cumprod(chosen.propensities)
        estimates.append(float((weights * clicks).sum()))
    error = float(np.std(estimates) / np.sqrt(len(estimates)))
    assert abs(float(np.mean(estimates)) - truth) < 4 * error
    assert error < 0.25 * truth, "the test would miss a bias otherwise"


def test_the_same_request_draws_the_same_list_and_another_does_not() -> None:
    policy = Softmax(temperature=5.0)

    def places(user_id: str, request_id: str) -> tuple[int, ...]:
        return tuple(draw(policy, request_random(user_id, request_id)).places.tolist())

    assert places("ann", "r-1") == places("ann", "r-1")
    assert len({places("ann", f"r-{n}") for n in range(40)}) > 10
    assert len({places(f"u-{n}", "r-1") for n in range(40)}) > 10
    first = request_random("ann", "r-1").random()
    assert first == 0.5981004958052745, "logged answers could no longer be drawn again"
    assert request_random("an", "nr-1").random() != first
