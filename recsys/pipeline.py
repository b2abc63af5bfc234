"""Retrieve → filter → rank → re-rank: a request from start to end, on one bundle.

::

    user's features ──► model server [retrieve, filter, rank] ──► late filters ──► re-rank
      share of the        rest of the deadline, and so told            what was
      deadline              └─ beside it: pinned items ranked          kept for it
           │                └─ its ranker is late or fails ──► rung "retrieval"
           └── a stage fails, is late or is not asked ──► rungs "similar", "popular", from memory,
                                        filtered for what is known     (ranking/from_memory.py)
    no bundle yet ──► rung "static": the same with the few items of the bundle before

    re-rank:  scores ─► + boosts, burials, freshness ─► place by place: pins ► category bounds
              ► diversity ► exploration            (recsys/ranking/choose.py, docs/reranking.md)

The rung that served a request is in its answer, with the reason, and a counter moves
(docs/degradation.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock, now_ms
from recsys.deadline import Deadline
from recsys.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FeatureLayoutError,
    OverloadedError,
    StageError,
)
from recsys.features.batch import Int32s
from recsys.features.names import token_hash
from recsys.feedback.exposure import GREEDY
from recsys.inference.live import LiveBundle, UserContext
from recsys.models.filter_tokens import ItemFilter
from recsys.ranking import filters, from_memory
from recsys.ranking.blending import blend, check_weights
from recsys.ranking.exploration import Policy
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
from recsys.resilience.recent_users import NO_PAST, UserPast
from recsys.telemetry import (
    ANSWERS_EXPLORED,
    RULES_UNKNOWN_NAMES,
    SERVED_BY_RUNG,
    STAGE_FAILURES,
    stage_seconds,
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
    """For the whole request, where the caller names none. An order of magnitude above the usual
    time: past it, the caller's page has given up, and the fallback is better than a full answer
    nobody waits for."""
    max_deadline_ms: int = 2_000
    """The most a caller may ask for: bounds what waits in this process."""
    rerank_ms: int = 40
    """Kept of it for re-ranking: the model server is not awaited past that. Where it is used up
    all the same, the list goes out without diversity and exploration, and the answer says so."""
    rerank_share: float = 0.08
    """At most this share of a short deadline is kept."""
    features_ms: int = 200
    """Most of it that reading features may take, so that the model keeps a share."""
    features_share: float = 0.4
    """The same as a share, for short deadlines."""


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
    candidates: RankedItems | None = None
    """What re-ranking chose from, best first, pins last; ``None`` where nothing was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request against one bundle."""

    request: RecommendRequest
    request_id: str
    bundle: ServedBundle
    bound: BoundRules
    now_ms: int
    deadline: Deadline
    excluded: Int32s
    """Rows left out whoever asks."""
    item_filter: ItemFilter

    def rules(self, token_hashes: Iterable[int]) -> Applying:
        """Give the rules that hold for a user of these profile tokens."""
        return applying(
            self.request, self.bundle, self.bound, now_ms=self.now_ms,
            user_tokens=frozenset(token_hashes),
        )  # fmt: skip


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

    def deadline(self, wanted_ms: float | None = None, *, waited_s: float = 0.0) -> Deadline:
        """Give the deadline of a request that has waited since it came.

        ``wanted_ms``: what its caller said; ``None``: nothing.
        """
        budget_ms = self.config.deadline_ms if wanted_ms is None else wanted_ms
        budget_ms = min(budget_ms, self.config.max_deadline_ms)
        return Deadline.after_ms(budget_ms - waited_s * 1e3)

    async def recommend(
        self,
        live: LiveBundle,
        request: RecommendRequest,
        *,
        request_id: str,
        deadline: Deadline | None = None,
        unasked: str = "",
    ) -> Answer:
        """Give at most ``request.k`` items, best first; chance falls by user and ``request_id``.

        Args:
            live: The bundle.
            request: What is wanted.
            request_id: The answer's own.
            deadline: ``None``: the default from now.
            unasked: Why no server is asked; ``""``: they are.

        Raises:
            InputError: when the objective weights do not fit the bundle, or the request's rules
                cannot be meant.
        """
        asked = self._asked(live.bundle, request, request_id, deadline)
        policy = asked.bound.operator.exploration if request.explore else None
        total_s = asked.deadline.remaining_s()
        user: UserContext | None = None
        try:
            if unasked:
                raise OverloadedError(unasked, stage="admission")
            user = await live.user(
                request.user_id, self._features_deadline(asked.deadline), request.context
            )
            rules = asked.rules(_tokens(user))
            kept_ms = min(self.config.rerank_ms, total_s * 1e3 * self.config.rerank_share)
            ranked = await self._candidates(
                live, asked, user, rules,
                k=candidates_needed(request, rules, policy),
                deadline=asked.deadline.before_ms(kept_ms),
            )  # fmt: skip
        except StageError as error:
            degraded = self._failed("recommend", error)
            return self._from_memory(asked, degraded, live=live, user=user)
        rung: Rung = "full"
        degraded = ""
        if ranked.unranked:
            rung, degraded = "retrieval", f"recommend: stage rank {ranked.unranked}"
            STAGE_FAILURES.labels("rank", ranked.unranked).inc()
            policy = None  # there are no probabilities to draw by
        elif weights := request.objective_weights:
            objectives = asked.bundle.dimensions.objectives
            ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
        # The search has left out what it was told to; pins have not been searched.
        seen = user.history_index if request.exclude_seen else filters.NOTHING
        kept = filters.keep(
            ranked.item_index,
            available=asked.bundle.available,
            excluded=(asked.excluded, seen) if rules.pins else (),
        )
        if asked.item_filter and rules.pins:
            kept &= filters.passing(ranked.item_index, asked.item_filter, asked.bundle.tags)
        if not kept.all():
            ranked = ranked.take(np.flatnonzero(kept))
        return self._answer(asked, ranked, rung, degraded, rules, user=user, policy=policy)

    def recommend_static(
        self,
        bundle: ServedBundle,
        request: RecommendRequest,
        *,
        request_id: str,
        deadline: Deadline | None = None,
        reason: str,
    ) -> Answer:
        """Answer from the static list, which comes as a ``bundle`` of its items.

        Raises:
            InputError: as ``recommend``.
        """
        asked = self._asked(bundle, request, request_id, deadline)
        return self._from_memory(asked, f"recommend: {reason}", rung="static")

    def _asked(
        self,
        bundle: ServedBundle,
        request: RecommendRequest,
        request_id: str,
        deadline: Deadline | None,
    ) -> _Asked:
        check_weights(bundle.dimensions.objectives, request.objective_weights)
        check_rules(request)
        return _Asked(
            request=request,
            request_id=request_id,
            bundle=bundle,
            bound=self._rules(bundle),
            now_ms=self._clock(),
            deadline=deadline or self.deadline(),
            excluded=filters.excluded_items(bundle.vocabulary.index_of, request.exclude_item_ids),
            item_filter=_item_filter(request),
        )

    def _features_deadline(self, deadline: Deadline) -> Deadline:
        share_ms = deadline.remaining_s() * 1e3 * self.config.features_share
        return deadline.within_ms(min(self.config.features_ms, share_ms))

    def _from_memory(
        self,
        asked: _Asked,
        degraded: str,
        *,
        live: LiveBundle | None = None,
        user: UserContext | None = None,
        rung: Rung | None = None,
    ) -> Answer:
        """Answer without any server; ``rung`` names the answer where it is not its own."""
        request = asked.request
        past, origin = _past(asked, live, user)
        rules = asked.rules(past.token_hashes.tolist())
        found = from_memory.choose(
            asked.bundle,
            past if user is not None else past.with_tokens(_said_tokens(request)),
            excluded=(
                asked.excluded,
                past.history_index if request.exclude_seen else filters.NOTHING,
            ),
            item_filter=asked.item_filter,
            needed=candidates_needed(request, rules, None),
            pinned=np.array([pin.row for pin in rules.pins], dtype=np.int32),
            now_ms=asked.now_ms,
        )
        degraded = "; ".join(part for part in (degraded, origin, found.said) if part)
        return self._answer(
            asked, found.ranked, rung or found.rung, degraded, rules, user=user, policy=None
        )

    def _answer(
        self,
        asked: _Asked,
        ranked: RankedItems,
        rung: Rung,
        degraded: str,
        rules: Applying,
        *,
        user: UserContext | None,
        policy: Policy | None,
    ) -> Answer:
        """Re-rank what may be shown, and count."""
        request = asked.request
        diversity = Diversity(
            amount=request.diversity, method=request.diversity_method, by=request.diversity_by
        )
        if asked.deadline.remaining_s() <= 0 and (diversity.amount or policy is not None):
            diversity, policy = NO_DIVERSITY, None
            STAGE_FAILURES.labels("rerank", "late").inc()
            late = "recommend: stage rerank late: no diversity, no exploration"
            degraded = f"{degraded}; {late}" if degraded else late
        with stage_seconds("rerank").time():
            shown = rerank(
                ranked,
                asked.bundle,
                k=request.k,
                are_probabilities=rung == "full" and bool(request.objective_weights),
                diversity=diversity,
                applying=rules,
                exploring=None if policy is None else Exploring(
                    policy=policy, user_id=request.user_id, request_id=asked.request_id
                ),
                now_ms=asked.now_ms,
            )  # fmt: skip
        SERVED_BY_RUNG.labels(rung).inc()
        if policy is not None:
            ANSWERS_EXPLORED.labels(type(policy).__name__.lower()).inc()
        return Answer(
            ranked=shown.ranked,
            user=user,
            rung=rung,
            degraded=degraded,
            now_ms=asked.now_ms,
            policy=GREEDY if policy is None else policy.described(),
            propensities=() if policy is None else shown.propensities.tolist(),
            applying=rules,
            rules_version=asked.bound.operator.version,
            candidates=ranked,
        )

    async def _candidates(
        self,
        live: LiveBundle,
        asked: _Asked,
        user: UserContext,
        rules: Applying,
        *,
        k: int,
        deadline: Deadline,
    ) -> RankedItems:
        """Give ``k`` candidates, best first, then the pinned items that are not among them."""
        request = asked.request
        searching = live.recommend(
            user,
            excluded=self._excluded_from_search(live.bundle, request, asked.excluded, user),
            exclude_history=request.exclude_seen,
            k=k,
            deadline=deadline,
            item_filter=asked.item_filter,
        )
        if not rules.pins:
            return await searching
        rows = np.array([pin.row for pin in rules.pins], dtype=np.int32)
        # Side by side in the same process: pins cost no second wait.
        found, pinned = await asyncio.gather(
            searching, live.rank(user, rows, deadline=deadline), return_exceptions=True
        )
        if isinstance(found, BaseException):
            raise found
        if isinstance(pinned, BaseException):
            if not found.unranked or not isinstance(pinned, StageError):
                raise pinned
            pinned = popular(live.bundle, rows)  # the same ranker failed: their place is fixed
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

    async def rank(
        self, live: LiveBundle, request: RankRequest, *, deadline: Deadline | None = None,
        unasked: str = "",
    ) -> Answer:  # fmt: skip
        """Give the known items of ``request.item_ids`` in order, each once. See ``recommend``.

        Raises:
            InputError: when the objective weights do not fit the bundle.
        """
        bundle, weights = live.bundle, request.objective_weights
        check_weights(bundle.dimensions.objectives, weights)
        now_ms = self._clock()
        deadline = deadline or self.deadline()
        rows = bundle.vocabulary.indexes(dict.fromkeys(request.item_ids))
        rows = rows[rows != 0]
        user: UserContext | None = None
        rung: Rung = "full"
        degraded = ""
        try:
            if unasked:
                raise OverloadedError(unasked, stage="admission")
            user = await live.user(
                request.user_id, self._features_deadline(deadline), request.context
            )
            if len(rows):
                ranked = await live.rank(user, rows, deadline=deadline)
            else:
                ranked = popular(bundle, limit=0)
        except StageError as error:
            past = user.past if user else live.recent_users.find(request.user_id) or NO_PAST
            found = from_memory.order(bundle, past, rows, now_ms=now_ms)
            rung, ranked = found.rung, found.ranked
            degraded = "; ".join(part for part in (self._failed("rank", error), found.said) if part)
        if rung == "full" and weights and len(ranked):
            objectives = bundle.dimensions.objectives
            ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
        SERVED_BY_RUNG.labels(rung).inc()
        return Answer(ranked=ranked, user=user, rung=rung, degraded=degraded, now_ms=now_ms)

    async def similar(
        self, live: LiveBundle, row: int, *, k: int, deadline: Deadline | None = None
    ) -> tuple[Int32s, list[float]]:
        """Give rows and cosines of the nearest items that may be shown; there is no fallback.

        Raises:
            StageError: when the model server fails or is late.
        """
        wanted = min(k + live.bundle.num_withdrawn, live.bundle.vocabulary.num_items)
        deadline = deadline or self.deadline()
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

    def _failed(self, route: Literal["recommend", "rank"], error: StageError) -> str:
        """Count a stage that gave no answer; give why, for the answer."""
        match error:
            case DeadlineExceededError():
                reason = "late"
            case OverloadedError():
                reason = "overloaded"
            case FeatureLayoutError():
                reason = "layout"
            case CircuitOpenError():
                reason = "away"
            case _:
                reason = "failed"
        STAGE_FAILURES.labels(error.stage, reason).inc()
        said = _SAID.get(reason, reason)
        return f"{route}: stage {error.stage} {said}"


def _item_filter(request: RecommendRequest) -> ItemFilter:
    asked = request.filters
    return ItemFilter.of(
        categories=asked.categories, exclude_categories=asked.exclude_categories,
        tags=asked.tags, exclude_tags=asked.exclude_tags,
    )  # fmt: skip


def _past(asked: _Asked, live: LiveBundle | None, user: UserContext | None) -> tuple[UserPast, str]:
    """Give what is known of the user without the servers, and where from."""
    if user is not None:
        return user.past, ""
    past = (live.recent_users.find(asked.request.user_id) if live else None) or NO_PAST
    origin = "user as last read" if past is not NO_PAST else ""
    rows = asked.bundle.vocabulary.indexes(asked.request.history_item_ids)
    rows = rows[rows != 0]
    if len(rows):
        origin = f"{origin}; history of the request" if origin else "history of the request"
        past = past.followed_by(rows, asked.now_ms)
    return past, origin


def _said_tokens(request: RecommendRequest) -> list[int]:
    return [token_hash(f"{key}={value}") for key, value in request.context.items()]


def _tokens(user: UserContext) -> list[int]:
    """Give the hashes of the user's profile tokens."""
    tokens: list[int] = user.features.token_hashes.row(user.row).tolist()
    return tokens
