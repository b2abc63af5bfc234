"""The last step: from the best candidates to the list that is shown.

::

    scores ──► log-odds ──► + boosts, burials, freshness ──► choose, place by place:
                                                               pins ► bounds ► diversity ► chance

Nothing touches the list after it was chosen, so the propensities are those of what is shown
(``choose.py``).

Axes: ``C`` candidates, ``N`` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Float32s, Int32s
from recsys.ranking.category_cap import cap_per_category
from recsys.ranking.category_limits import CategoryCount
from recsys.ranking.choose import Chance, Chosen, choose
from recsys.ranking.dpp import DeterminantalGain
from recsys.ranking.exploration import Policy, Thompson
from recsys.ranking.mmr import MarginalRelevance
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_random import request_random
from recsys.ranking.request_rules import NOTHING_APPLIES, Applying, each_factor, log_factors
from recsys.ranking.similarity import CategorySimilarity, Float64s, Similarity, VectorSimilarity
from recsys.ranking.thompson import deviation_of
from recsys.ranking.worth import RelevanceAlone, Worth
from recsys.wire import MAX_K, DiversityBy, DiversityMethod, RecommendRequest, RuleEffect

CHOICE_FACTOR = 5
"""Re-ranking chooses from so many times ``k`` candidates."""
MIN_CHOICE = 100
"""But at least from these: a short list needs room too."""
LEAST_PROBABILITY = 1e-6
"""Below it a blended probability has no log-odds worth telling apart."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """How unlike each other the items of a list shall be."""

    amount: float
    """λ, 0 to 1; 0 leaves the order alone."""
    method: DiversityMethod = "mmr"
    by: DiversityBy = "category"


NO_DIVERSITY = Diversity(amount=0.0)


@dataclass(frozen=True, kw_only=True)
class Exploring:
    """A policy, and whose chance it is."""

    policy: Policy
    user_id: str
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """A list, and how likely it was."""

    ranked: RankedItems
    propensities: Float64s
    """``[k]``: chance of each item at its place given those above; 1 where nothing was drawn."""


def candidates_needed(request: RecommendRequest, applying: Applying, policy: Policy | None) -> int:
    """Give how many ranked items a request's re-ranking wants to choose from."""
    plain = not request.diversity and not applying and policy is None
    if plain and not request.objective_weights:
        return request.k
    return min(MAX_K, max(MIN_CHOICE, CHOICE_FACTOR * request.k))


def rerank(
    ranked: RankedItems,
    bundle: ServedBundle,
    *,
    k: int,
    are_probabilities: bool,
    diversity: Diversity = NO_DIVERSITY,
    applying: Applying = NOTHING_APPLIES,
    exploring: Exploring | None = None,
    now_ms: int,
) -> Reranked:
    """Give the ``k`` items to show, in order; fewer only when there are fewer candidates.

    Args:
        ranked: Candidates that may be shown, best first; pinned ones may stand anywhere.
        bundle: Names, categories, ages and embeddings of their rows.
        k: Length wanted.
        are_probabilities: Whether scores are blended probabilities; else they are log-odds.
        diversity: See ``mmr.py`` and ``dpp.py``.
        applying: Rules. Pins of items that are no candidates do nothing.
        exploring: ``None``: the best at every place.
        now_ms: The moment of the request, for the age of items.
    """
    k = min(k, len(ranked))
    if not (diversity.amount or applying or exploring) or k == 0:
        return Reranked(ranked=ranked.first(k), propensities=np.ones(k))
    relevance = _log_odds(ranked.score, are_probabilities=are_probabilities)
    category = bundle.category_index[ranked.item_index]
    if applying.factors or applying.freshness:
        relevance = relevance + log_factors(
            applying, ranked.item_index, category, bundle.born_ms[ranked.item_index], now_ms=now_ms
        )
    # Best first, so that of equals the better score is taken, and an empty list is the best one's.
    order = np.argsort(-relevance, kind="stable")
    ranked, relevance, category = ranked.take(order), relevance[order], category[order]
    if exploring is None and not diversity.amount and _only_one_cap(applying):
        capped = cap_per_category(category, limit=applying.bounds.most_of_each or 0, k=k)
        return Reranked(ranked=ranked.take(capped), propensities=np.ones(k))
    chosen = choose(
        _worth(relevance, ranked.item_index, category, bundle, diversity, k=k),
        len(ranked),
        length=k,
        pins=_pins(applying, ranked.item_index, length=k),
        count=CategoryCount(category, applying.bounds, length=k) if applying.bounds else None,
        chance=_chance(exploring, ranked, bundle) if exploring is not None else None,
    )
    return _reranked(ranked, chosen)


def rule_effects(
    applying: Applying, ranked: RankedItems, bundle: ServedBundle, *, now_ms: int
) -> list[list[RuleEffect]]:
    """Give what each rule did to each item of a list, for its explanation."""
    effects: list[list[RuleEffect]] = [[] for _ in range(len(ranked))]
    index = ranked.item_index
    for effect, meant, added in each_factor(
        applying, index, bundle.category_index[index], bundle.born_ms[index], now_ms=now_ms
    ):
        for place in np.flatnonzero(meant).tolist():
            factor = round(float(np.exp(added[place])), 6)
            effects[place].append(RuleEffect(rule=effect.rule, action=effect.action, factor=factor))
    rule_of = {pin.row: pin.rule for pin in applying.pins}
    for place, row in enumerate(index.tolist()):
        if row in rule_of:
            effects[place].append(RuleEffect(rule=rule_of[row], action="pin"))
    return effects


def _log_odds(score: Float32s, *, are_probabilities: bool) -> Float64s:
    """Give scores as what a factor on the odds adds to."""
    wide = score.astype(np.float64)
    if not are_probabilities:
        return wide
    probability = np.clip(wide, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    odds: Float64s = np.log(probability / (1.0 - probability))
    return odds


def _only_one_cap(applying: Applying) -> bool:
    bounds = applying.bounds
    return (
        not applying.pins
        and bounds.most_of_each is not None
        and not bounds.most
        and not bounds.least
    )


def _worth(
    relevance: Float64s,
    item_index: Int32s,
    category: Int32s,
    bundle: ServedBundle,
    diversity: Diversity,
    *,
    k: int,
) -> Worth:
    if not diversity.amount:
        return RelevanceAlone(relevance)
    similarity: Similarity = (
        VectorSimilarity(bundle.embeddings.rows(item_index))
        if diversity.by == "embedding"
        else CategorySimilarity(category)
    )
    if diversity.method == "mmr":
        return MarginalRelevance(relevance, similarity, diversity=diversity.amount)
    return DeterminantalGain(relevance, similarity, diversity=diversity.amount, k=k)


def _pins(applying: Applying, item_index: Int32s, *, length: int) -> dict[int, int]:
    """Give the candidate by position; in a list too short for its position, a pin ends the list."""
    place_of = {row: place for place, row in enumerate(item_index.tolist())}
    pins = [(pin.position, place_of[pin.row]) for pin in applying.pins if pin.row in place_of]
    settled: dict[int, int] = {}
    last = length - 1
    for position, place in sorted(pins, reverse=True):
        settled[min(position, last)] = place
        last = min(position, last) - 1
    return {position: place for position, place in settled.items() if position >= 0}


def _chance(exploring: Exploring, ranked: RankedItems, bundle: ServedBundle) -> Chance:
    deviation = np.zeros(len(ranked))
    if isinstance(exploring.policy, Thompson):
        deviation = deviation_of(
            ranked.objective_score[:, 0],
            np.expm1(np.maximum(bundle.popular_score_by_row[ranked.item_index], 0.0)),
            prior_strength=exploring.policy.prior_strength,
        )
    return Chance(
        policy=exploring.policy,
        rng=request_random(exploring.user_id, exploring.request_id),
        deviation=deviation,
    )


def _reranked(ranked: RankedItems, chosen: Chosen) -> Reranked:
    return Reranked(ranked=ranked.take(chosen.places), propensities=chosen.propensities)
