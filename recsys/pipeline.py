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

from collections.abc import Callable

from recsys.answers.answer import Answer
from recsys.answers.asked import Asked
from recsys.answers.budgets import PipelineConfig
from recsys.answers.candidates import allowed, candidates
from recsys.answers.failures import stage_failed
from recsys.answers.given_items import ranked_items, similar_items
from recsys.answers.last_step import reranked_answer
from recsys.answers.rules_in_force import RulesInForce
from recsys.answers.without_servers import remembered
from recsys.bundle.served import ServedBundle
from recsys.clock import Clock, now_ms
from recsys.deadline import Deadline
from recsys.errors import OverloadedError, StageError
from recsys.features.batch import Int32s
from recsys.inference.live import LiveBundle
from recsys.inference.user_reading import UserContext
from recsys.ranking.blending import blend
from recsys.ranking.operator_rules import NO_RULES, OperatorRules
from recsys.ranking.reranking import candidates_needed
from recsys.telemetry import STAGE_FAILURES
from recsys.wire import RankRequest, RecommendRequest, Rung

__all__ = ["Answer", "Pipeline", "PipelineConfig"]

_USUAL = PipelineConfig()


class Pipeline:
    """Answers requests. The bundle comes with each call, so one request never sees two."""

    def __init__(
        self,
        config: PipelineConfig = _USUAL,
        *,
        operator: Callable[[], OperatorRules] = lambda: NO_RULES,
        clock: Clock = now_ms,
    ) -> None:
        """Take budgets, what gives the operator's rules in force, and the clock."""
        self.config = config
        self._clock = clock
        self._rules = RulesInForce(operator)

    def deadline(self, wanted_ms: float | None = None, *, waited_s: float = 0.0) -> Deadline:
        """Give the deadline of a request that has waited since it came.

        ``wanted_ms``: what its caller said; ``None``: nothing.
        """
        return self.config.deadline(wanted_ms, waited_s=waited_s)

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
                request.user_id, self.config.for_features(asked.deadline), request.context
            )
            rules = asked.rules(user.features.token_hashes.row(user.row).tolist())
            ranked = await candidates(
                live, asked, user, rules,
                k=candidates_needed(request, rules, policy),
                deadline=asked.deadline.before_ms(self.config.kept_for_reranking_ms(total_s)),
            )  # fmt: skip
        except StageError as error:
            degraded = stage_failed("recommend", error)
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
        ranked = allowed(ranked, asked, user, rules)
        return reranked_answer(asked, ranked, rung, degraded, rules, user=user, policy=policy)

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

    async def rank(
        self, live: LiveBundle, request: RankRequest, *, deadline: Deadline | None = None,
        unasked: str = "",
    ) -> Answer:  # fmt: skip
        """Give the known items of ``request.item_ids`` in order, each once. See ``recommend``.

        Raises:
            InputError: when the objective weights do not fit the bundle.
        """
        return await ranked_items(
            live, request, budgets=self.config, deadline=deadline or self.deadline(),
            now_ms=self._clock(), unasked=unasked,
        )  # fmt: skip

    async def similar(
        self, live: LiveBundle, row: int, *, k: int, deadline: Deadline | None = None
    ) -> tuple[Int32s, list[float]]:
        """Give rows and cosines of the nearest items that may be shown; there is no fallback.

        Raises:
            StageError: when the model server fails or is late.
        """
        return await similar_items(live, row, k=k, deadline=deadline or self.deadline())

    def _asked(
        self,
        bundle: ServedBundle,
        request: RecommendRequest,
        request_id: str,
        deadline: Deadline | None,
    ) -> Asked:
        return Asked.of(
            request,
            request_id=request_id,
            bundle=bundle,
            bound=self._rules.of(bundle),
            now_ms=self._clock(),
            deadline=deadline or self.deadline(),
        )

    def _from_memory(
        self,
        asked: Asked,
        degraded: str,
        *,
        live: LiveBundle | None = None,
        user: UserContext | None = None,
        rung: Rung | None = None,
    ) -> Answer:
        """Answer without any server; ``rung`` names the answer where it is not its own."""
        found = remembered(asked, live, user)
        degraded = "; ".join(part for part in (degraded, found.said) if part)
        return reranked_answer(
            asked, found.ranked, rung or found.rung, degraded, found.rules, user=user, policy=None
        )
