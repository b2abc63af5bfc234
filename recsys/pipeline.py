"""Retrieve → filter → rank → re-rank: a request from start to end, on one bundle.

::

    user's features ──► model server [retrieve, filter, rank] ──► late filters ──► re-rank
      share of the        rest of the deadline                                      what was
      deadline              └─ beside it: pinned items ranked                       kept for it
           └── a stage fails or is late ──► rung "popular": the bundle's static list, filtered for
                                            what is known

    re-rank:  scores ─► + boosts, burials, freshness ─► place by place: pins ► category bounds
              ► diversity ► exploration            (recsys/ranking/choose.py, docs/reranking.md)

The rung that served a request is in its answer, and a counter moves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock, now_ms
from recsys.deadline import Deadline
from recsys.errors import (
    DeadlineExceededError,
    FeatureLayoutError,
    OverloadedError,
    StageError,
)
from recsys.features.batch import Int32s
from recsys.feedback.exposure import GREEDY
from recsys.inference.live import LiveBundle, UserContext
from recsys.models.filter_tokens import ItemFilter
from recsys.ranking import filters
from recsys.ranking.blending import blend, check_weights
from recsys.ranking.operator_rules import NO_RULES, OperatorRules
from recsys.ranking.popular import popular
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import (
    NOTHING_APPLIES,
    Applying,
    BoundRules,
    applying,
    bind,
    check_rules,
)
from recsys.ranking.reranking import (
    NO_DIVERSITY,
    Diversity,
    Exploring,
    candidates_needed,
    rerank,
)
from recsys.telemetry import (
    ANSWERS_EXPLORED,
    RULES_UNKNOWN_NAMES,
    SERVED_BY_RUNG,
    STAGE_FAILURES,
    STAGE_SECONDS,
)
from recsys.wire import RankRequest, RecommendRequest, Rung

logger = logging.getLogger(__name__)

_MAX_BOUND = 4
"""Bundles whose rows the operator's rules are kept in: the live one, and those beside it."""
_SHOWN_UNKNOWN = 5
_SAID = {"layout": "failed: the store holds features of another layout than the bundle's"}
"""Reasons that need more words in an answer than in a counter."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Budgets of a request."""

    deadline_ms: int = 500
    """For the whole request. An order of magnitude above the usual time: past it, the caller's
    page has given up, and the fallback is better than a full answer nobody waits for."""
    rerank_ms: int = 40
    """Kept of it for re-ranking: the model server is not awaited past that. Where it is used up
    all the same, the list goes out without diversity and exploration, and the answer says so."""
    features_ms: int = 200
    """Most of it that reading features may take, so that the model keeps a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gets, before it is put into words."""

    ranked: RankedItems
    user: UserContext | None
    """``None`` when the features could not be read."""
    rung: Rung
    degraded: str = ""
    """Why the rung is not ``full``, or what was left out of re-ranking."""
    now_ms: int
    """The moment of the answer: what rules and the age of items went by."""
    policy: str = GREEDY
    """How the list was drawn, with parameters; ``greedy`` where nothing was."""
    propensities: Sequence[float] = ()
    """Chance of each item at its place given those above; empty under ``greedy``."""
    applying: Applying = NOTHING_APPLIES
    """The rules that held."""
    rules_version: str = ""
    """Of the operator's file; ``""`` where there is none."""


class Pipeline:
    """Answers requests. The bundle comes with each call, so one request never sees two."""

    def __init__(
        self,
        config: PipelineConfig = PipelineConfig(),
        *,
        operator: Callable[[], OperatorRules] = lambda: NO_RULES,
        clock: Clock = now_ms,
    ) -> None:
        """Take budgets, what gives the operator's rules in force, and the clock."""
        self.config = config
        self._operator = operator
        self._clock = clock
        self._bound: dict[str, BoundRules] = {}

    async def recommend(
        self, live: LiveBundle, request: RecommendRequest, *, request_id: str
    ) -> Answer:
        """Give at most ``request.k`` items, best first; chance falls by user and ``request_id``.

        Raises:
            InputError: when the objective weights do not fit the bundle, or the request's rules
                cannot be meant.
        """
        bundle, weights = live.bundle, request.objective_weights
        check_weights(bundle.dimensions.objectives, weights)
        check_rules(request)
        bound = self._rules(bundle)
        policy = bound.operator.exploration if request.explore else None
        now_ms = self._clock()
        deadline = Deadline.after_ms(self.config.deadline_ms)
        excluded = filters.excluded_items(bundle.vocabulary.index_of, request.exclude_item_ids)
        item_filter = _item_filter(request)
        user: UserContext | None = None
        rules = applying(request, bundle, bound, now_ms=now_ms, user_tokens=frozenset())
        try:
            share = deadline.within_ms(self.config.features_ms)
            user = await live.user(request.user_id, share, request.context)
            rules = applying(request, bundle, bound, now_ms=now_ms, user_tokens=_tokens(user))
            ranked = await self._candidates(
                live, request, user, rules, excluded, item_filter,
                k=candidates_needed(request, rules, policy),
                deadline=deadline.before_ms(self.config.rerank_ms),
            )  # fmt: skip
            rung: Rung = "full"
            degraded = ""
        except StageError as error:
            rung, degraded = self._fall("recommend", error)
            ranked, policy = popular(bundle), None
        if rung == "full" and weights:
            objectives = bundle.dimensions.objectives
            ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
        # The search has left out what it was told to; the fallback list and pins have not been
        # searched.
        searched = rung == "full" and not rules.pins
        seen = user.history_index if user and request.exclude_seen else filters.NOTHING
        kept = filters.keep(
            ranked.item_index,
            available=bundle.available,
            excluded=() if searched else (excluded, seen),
        )
        if item_filter and not searched:
            kept &= filters.passing(ranked.item_index, item_filter, bundle.tags)
        if not kept.all():
            ranked = ranked.take(np.flatnonzero(kept))
        if rung == "popular":
            pinned = np.array([pin.row for pin in rules.pins], dtype=np.int32)
            pins = ranked.take(np.flatnonzero(np.isin(ranked.item_index, pinned)))
            ranked = ranked.first(candidates_needed(request, rules, policy)).with_further(pins)
        diversity = Diversity(
            amount=request.diversity, method=request.diversity_method, by=request.diversity_by
        )
        if deadline.remaining_s() <= 0 and (diversity.amount or policy is not None):
            diversity, policy = NO_DIVERSITY, None
            STAGE_FAILURES.labels("rerank", "late").inc()
            late = "recommend: stage rerank late: no diversity, no exploration"
            degraded = f"{degraded}; {late}" if degraded else late
        with STAGE_SECONDS.labels("rerank").time():
            shown = rerank(
                ranked,
                bundle,
                k=request.k,
                are_probabilities=rung == "full" and bool(weights),
                diversity=diversity,
                applying=rules,
                exploring=None if policy is None else Exploring(
                    policy=policy, user_id=request.user_id, request_id=request_id
                ),
                now_ms=now_ms,
            )  # fmt: skip
        SERVED_BY_RUNG.labels(rung).inc()
        if policy is not None:
            ANSWERS_EXPLORED.labels(type(policy).__name__.lower()).inc()
        return Answer(
            ranked=shown.ranked,
            user=user,
            rung=rung,
            degraded=degraded,
            now_ms=now_ms,
            policy=GREEDY if policy is None else policy.described(),
            propensities=() if policy is None else shown.propensities.tolist(),
            applying=rules,
            rules_version=bound.operator.version,
        )

    async def _candidates(
        self,
        live: LiveBundle,
        request: RecommendRequest,
        user: UserContext,
        rules: Applying,
        excluded: Int32s,
        item_filter: ItemFilter,
        *,
        k: int,
        deadline: Deadline,
    ) -> RankedItems:
        """Give ``k`` candidates, best first, then the pinned items that are not among them."""
        searching = live.recommend(
            user,
            excluded=self._excluded_from_search(live.bundle, request, excluded, user),
            exclude_history=request.exclude_seen,
            k=k,
            deadline=deadline,
            item_filter=item_filter,
        )
        if not rules.pins:
            return await searching
        rows = np.array([pin.row for pin in rules.pins], dtype=np.int32)
        # Side by side in the same process: pins cost no second wait.
        found, pinned = await asyncio.gather(searching, live.rank(user, rows, deadline=deadline))
        return found.with_further(pinned)

    def _rules(self, bundle: ServedBundle) -> BoundRules:
        """Give the operator's rules in rows of ``bundle``; names it lacks are counted and said."""
        operator = self._operator()
        bound = self._bound.get(bundle.bundle_id)
        if bound is not None and bound.operator is operator:
            return bound
        bound = bind(operator, bundle)
        RULES_UNKNOWN_NAMES.set(len(bound.unknown))
        if bound.unknown:
            logger.warning(
                "rules %s name %d things bundle %s does not have: %s",
                operator.version,
                len(bound.unknown),
                bundle.bundle_id,
                "; ".join(bound.unknown[:_SHOWN_UNKNOWN]),
            )
        self._bound.pop(bundle.bundle_id, None)
        while len(self._bound) >= _MAX_BOUND:
            del self._bound[next(iter(self._bound))]
        self._bound[bundle.bundle_id] = bound
        return bound

    async def rank(self, live: LiveBundle, request: RankRequest) -> Answer:
        """Give the known items of ``request.item_ids`` in order, each once.

        Raises:
            InputError: when the objective weights do not fit the bundle.
        """
        bundle, weights = live.bundle, request.objective_weights
        check_weights(bundle.dimensions.objectives, weights)
        now_ms = self._clock()
        deadline = Deadline.after_ms(self.config.deadline_ms)
        rows = bundle.vocabulary.indexes(dict.fromkeys(request.item_ids))
        rows = rows[rows != 0]
        user: UserContext | None = None
        rung: Rung = "full"
        degraded = ""
        try:
            share = deadline.within_ms(self.config.features_ms)
            user = await live.user(request.user_id, share, request.context)
            if len(rows):
                ranked = await live.rank(user, rows, deadline=deadline)
            else:
                ranked = popular(bundle).first(0)
        except StageError as error:
            rung, degraded = self._fall("rank", error)
            ranked = popular(bundle, rows)
        if rung == "full" and weights and len(ranked):
            objectives = bundle.dimensions.objectives
            ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
        SERVED_BY_RUNG.labels(rung).inc()
        return Answer(ranked=ranked, user=user, rung=rung, degraded=degraded, now_ms=now_ms)

    async def similar(self, live: LiveBundle, row: int, *, k: int) -> tuple[Int32s, list[float]]:
        """Give rows and cosines of the nearest items that may be shown; there is no fallback.

        Raises:
            StageError: when the model server fails or is late.
        """
        wanted = min(k + len(live.bundle.withdrawn_index), live.bundle.vocabulary.num_items)
        deadline = Deadline.after_ms(self.config.deadline_ms)
        rows, score = await live.similar(row, k=min(wanted, 4 * k), deadline=deadline)
        kept = live.bundle.available[rows]
        return rows[kept][:k], score[kept][:k].tolist()

    def _excluded_from_search(
        self, bundle: ServedBundle, request: RecommendRequest, excluded: Int32s, user: UserContext
    ) -> Int32s:
        """Add what the user saw too long ago to be in the history that travels to the model."""
        if not request.exclude_seen:
            return excluded
        return filters.union(excluded, user.history_index[: -bundle.encoding.history_length])

    def _fall(self, route: Literal["recommend", "rank"], error: StageError) -> tuple[Rung, str]:
        match error:
            case DeadlineExceededError():
                reason = "late"
            case OverloadedError():
                reason = "overloaded"
            case FeatureLayoutError():
                reason = "layout"
            case _:
                reason = "failed"
        STAGE_FAILURES.labels(error.stage, reason).inc()
        said = _SAID.get(reason, reason)
        return "popular", f"{route}: stage {error.stage} {said}"


def _item_filter(request: RecommendRequest) -> ItemFilter:
    asked = request.filters
    return ItemFilter.of(
        categories=asked.categories, exclude_categories=asked.exclude_categories,
        tags=asked.tags, exclude_tags=asked.exclude_tags,
    )  # fmt: skip


def _tokens(user: UserContext) -> frozenset[int]:
    """Give the hashes of the user's profile tokens."""
    return frozenset(user.features.token_hashes.row(user.row).tolist())
