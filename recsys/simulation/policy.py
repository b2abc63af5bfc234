"""The logging policy: how the lists in the log came about, with the exact chance of each choice.

Axes: ``n`` requests, ``C`` candidate draws, ``L`` places of the list, ``D`` latent dims.

1. Candidates. ``num_candidates`` draws from four sources: popular (by the day's popularity),
   topical (the user's topics in turn, by the root of popularity), fresh, uniform. Staples the user
   comes back for replace the first draws. Duplicates and items not on offer drop out.
2. Score. ``(w_pop quality + w_aff (affinity + noise)) / temperature``. The noise is one draw per
   user and item: the policy errs the same way each time. It knows nothing of the session.
3. List. Plackett and Luce: places are filled from the top, each by a softmax over the candidates
   that are left. Drawn by sorting score plus Gumbel noise, which is the same distribution.

``propensities[k]`` is the chance of the item at place k given the candidate set and the items at
places 0..k-1. At place 0 it is therefore the item's plain chance given the candidate set; the
product over 0..k is the chance of that beginning of the list. Randomness of the candidate set is
not in it: ``World.logged_requests`` gives the set, so that estimators can condition on it.

Source: Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.clock import DAY_MS
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Floats, Ints, State, Stream, fold, root, uniform
from recsys.simulation.items import Items, PopularityTables, pick, pick_in_segments
from recsys.simulation.users import Profiles, Users

POLICY_NAME = "simulated_logging_v1"
"""What an impression says in ``policy``."""


@dataclass(frozen=True, kw_only=True)
class Slates:
    """Lists drawn by the logging policy."""

    items: Ints
    """[n, L] item indices, -1 where the candidates ran out."""
    propensities: Floats
    """[n, L] chance of each choice given the candidates and the choices above; 1 at -1."""
    candidates: Ints
    """[n, C] the candidate set in ascending order, -1 where a draw dropped out."""
    scores: Floats
    """[n, C] the softmax's logits; ``-inf`` where a draw dropped out."""


class LoggingPolicy:
    """Draws the lists of one world's log."""

    def __init__(self, config: WorldConfig, users: Users, items: Items) -> None:
        self._config = config
        self._users = users
        self._items = items
        self._tables = PopularityTables(items, config)
        self._candidate = root(config.seed, Stream.CANDIDATE)
        self._estimate = root(config.seed, Stream.ESTIMATE)
        self._gumbel = root(config.seed, Stream.GUMBEL)
        bounds = np.cumsum((0.0, *config.candidate_mix))
        self._bounds = [round(bound * config.num_candidates) for bound in bounds]

    def slates(self, profiles: Profiles, time_ms: Ints, request: State) -> Slates:
        """Draw a list for each request."""
        candidates = self.candidates(profiles, time_ms, request)
        scores = self.scores(profiles, candidates, time_ms)
        name = fold(self._gumbel, request)[:, None]
        luck = uniform(fold(name, np.arange(candidates.shape[1])))
        keys = scores - np.log(-np.log(luck))
        order = np.argsort(-keys, axis=1)[:, : self._config.list_length]
        weight = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-1e9))
        chosen = np.take_along_axis(weight, order, axis=1)
        # What is left before each choice, summed from the far end so that nothing cancels.
        np.put_along_axis(weight, order, 0.0, axis=1)
        left = np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1] + weight.sum(axis=1, keepdims=True)
        items = np.take_along_axis(candidates, order, axis=1)
        share = np.where(items >= 0, chosen / np.maximum(left, 1e-300), 1.0)
        return Slates(
            items=items,
            propensities=np.clip(share, 1e-12, 1.0),
            candidates=candidates,
            scores=scores,
        )

    def candidates(self, profiles: Profiles, time_ms: Ints, request: State) -> Ints:
        """Draw candidate sets, [n, C] ascending, -1 (in any place) where a draw dropped out."""
        config, items = self._config, self._items
        name = fold(self._candidate, request)[:, None]
        luck = uniform(fold(name, np.arange(config.num_candidates)))
        drawn = np.empty(luck.shape, dtype=np.int64)
        _, popular, topical, fresh, _ = self._bounds
        days = self._tables.day(time_ms)
        for day in np.unique(days).tolist():
            rows = np.flatnonzero(days == day)
            by_weight, by_root = self._tables.of_day(day)
            drawn[rows, :popular] = pick(items, by_weight, luck[rows, :popular] * by_weight[-1])
            slots = np.arange(topical - popular) % profiles.topics.shape[1]
            topics = profiles.topics[rows][:, slots]
            drawn[rows, popular:topical] = pick_in_segments(
                items, by_root, topics, luck[rows, popular:topical]
            )
        born = items.num_born(time_ms)[:, None]
        old = items.num_born(time_ms - round(config.fresh_days * DAY_MS))[:, None]
        old = np.where(old < born, old, 0)  # nothing fresh: anything
        drawn[:, topical:fresh] = old + luck[:, topical:fresh] * (born - old)
        drawn[:, fresh:] = luck[:, fresh:] * born
        wanted = profiles.staples[:, : config.num_candidates]
        drawn[:, : wanted.shape[1]] = np.where(wanted >= 0, wanted, drawn[:, : wanted.shape[1]])
        drawn.sort(axis=1)
        keep = items.available(drawn, time_ms[:, None]) & (drawn >= 0)
        keep[:, 1:] &= drawn[:, 1:] != drawn[:, :-1]
        return np.where(keep, drawn, -1)

    def scores(self, profiles: Profiles, candidates: Ints, time_ms: Ints) -> Floats:
        """Give the softmax's logits, [n, C]; ``-inf`` where the candidate is -1."""
        config, items = self._config, self._items
        taste = self._users.tastes(profiles, time_ms).astype(np.float32)
        vectors = items.vector.take(candidates, axis=0, mode="clip")
        # The sum over d is the inner loop whatever the batch, so its order never changes.
        estimate = np.einsum("ncd,nd->nc", vectors, taste).astype(np.float64)
        name = fold(self._estimate, profiles.index)[:, None]
        # Uniform noise of the wanted standard deviation: bounded, so no score is extreme.
        noise = (uniform(fold(name, candidates)) - 0.5) * (12.0**0.5 * config.policy_noise)
        score = config.policy_affinity_weight * (estimate + noise)
        score += config.policy_popularity_weight * items.quality[candidates]
        score /= config.policy_temperature
        return np.where(candidates >= 0, score, -np.inf)
