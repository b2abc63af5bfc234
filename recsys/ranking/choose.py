"""The list, place by place: pins, then bounds, then diversity, then chance.

All of them act on the choice of each place and none on the finished list. Which items may stand at
a place and what they are worth there follow from the list above alone, so the chance the policy
gives is exactly the chance of the item at its place given what is above it. A cap or a re-ordering
after the draw would change that chance into one nobody can state.

Axes: ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.ranking.category_cap import Places
from recsys.ranking.category_limits import CategoryCount
from recsys.ranking.exploration import Policy, Softmax, draw_best
from recsys.ranking.plackett_luce import gumbel_top_k
from recsys.ranking.similarity import Float64s
from recsys.ranking.worth import Worth


@dataclass(frozen=True, kw_only=True)
class Chance:
    """How a request draws."""

    policy: Policy
    rng: np.random.Generator
    deviation: Float64s
    """``[C]`` of relevance; read by Thompson sampling only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A list."""

    places: Places
    """Of the candidates, in order."""
    propensities: Float64s
    """Chance of each at its position given the list above; 1 where nothing was drawn."""


def choose(
    worth: Worth,
    num_candidates: int,
    *,
    length: int,
    pins: Mapping[int, int],
    count: CategoryCount | None = None,
    chance: Chance | None = None,
) -> Chosen:
    """Give a list of ``length`` distinct candidates.

    Args:
        worth: Of the candidates.
        num_candidates: C.
        length: At most C.
        pins: Candidate by position, each candidate once, positions below ``length``.
        count: Bounds of categories; pinned items count, wherever they stand.
        chance: ``None``: the best at every place.
    """
    if chance is not None and worth.is_constant and not pins and count is None:
        policy = chance.policy
        if isinstance(policy, Softmax) and policy.draws_at(0) and policy.draws_at(length - 1):
            drawn, propensity = gumbel_top_k(worth.now() / policy.temperature, length, chance.rng)
            return Chosen(places=drawn, propensities=propensity)
    open_ = np.ones(num_candidates, dtype=bool)
    for place in pins.values():
        open_[place] = False
        if count is not None:
            count.add(place)
    places = np.empty(length, dtype=np.intp)
    propensities = np.ones(length)
    for position in range(length):
        pinned = pins.get(position)
        if pinned is not None:
            places[position] = pinned
            worth.add(pinned)
            continue
        allowed = open_ if count is None else count.allowed(open_)
        if chance is None or not chance.policy.draws_at(position):
            place = draw_best(worth.now(), allowed)
        else:
            place, propensities[position] = chance.policy.draw(
                worth.now(), allowed, worth.slope * chance.deviation, chance.rng
            )
        places[position] = place
        open_[place] = False
        worth.add(place)
        if count is not None:
            count.add(place)
    return Chosen(places=places, propensities=propensities)
