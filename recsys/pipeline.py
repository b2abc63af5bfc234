"""Retrieve → filter → rank → re-rank: a request from start to end, on one bundle.

::

    user's features ──► model server [retrieve, filter, rank] ──► late filters ──► re-rank
      share of the        rest of the deadline
      deadline
           └── a stage fails or is late ──► rung "popular": the bundle's static list, filtered for
                                            what is known

The rung that served a request is in its answer, and a counter moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.deadline import Deadline
from recsys.errors import (
    DeadlineExceededError,
    FeatureLayoutError,
    OverloadedError,
    StageError,
)
from recsys.features.batch import Int32s
from recsys.inference.live import LiveBundle, UserContext
from recsys.ranking import filters
from recsys.ranking.blending import blend, check_weights
from recsys.ranking.popular import popular
from recsys.ranking.ranked import RankedItems
from recsys.ranking.reranking import candidates_needed, rerank
from recsys.telemetry import SERVED_BY_RUNG, STAGE_FAILURES
from recsys.wire import RankRequest, RecommendRequest, Rung

_SAID = {"layout": "failed: the store holds features of another layout than the bundle's"}
"""Reasons that need more words in an answer than in a counter."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Budgets of a request."""

    deadline_ms: int = 500
    """For the whole request. An order of magnitude above the usual time: past it, the caller's
    page has given up, and the fallback is better than a full answer nobody waits for."""
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
    """Why the rung is not ``full``."""


class Pipeline:
    """Answers requests. The bundle comes with each call, so one request never sees two."""

    def __init__(self, config: PipelineConfig = PipelineConfig()) -> None:
        self.config = config

    async def recommend(self, live: LiveBundle, request: RecommendRequest) -> Answer:
        """Give at most ``request.k`` items, best first.

        Raises:
            InputError: when the objective weights do not fit the bundle.
        """
        bundle, weights = live.bundle, request.objective_weights
        check_weights(bundle.dimensions.objectives, weights)
        deadline = Deadline.after_ms(self.config.deadline_ms)
        excluded = self._excluded(bundle, request)
        user: UserContext | None = None
        try:
            user = await live.user(request.user_id, deadline.within_ms(self.config.features_ms))
            ranked = await live.recommend(
                user,
                excluded=self._excluded_from_search(bundle, request, excluded, user),
                exclude_history=request.exclude_seen,
                k=candidates_needed(request),
                deadline=deadline,
            )
            rung: Rung = "full"
            degraded = ""
        except StageError as error:
            rung, degraded = self._fall("recommend", error)
            ranked = popular(bundle)
        if rung == "full" and weights:
            objectives = bundle.dimensions.objectives
            ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
        # The search has left out what it was told to; the fallback list has not been searched.
        seen = user.history_index if user and request.exclude_seen else filters.NOTHING
        kept = filters.keep(
            ranked.item_index,
            available=bundle.available,
            excluded=() if rung == "full" else (excluded, seen),
        )
        ranked = rerank(
            ranked if kept.all() else ranked.take(np.flatnonzero(kept)),
            bundle.category_index,
            k=request.k,
            diversity=request.diversity,
            max_per_category=request.max_per_category,
        )
        SERVED_BY_RUNG.labels(rung).inc()
        return Answer(ranked=ranked, user=user, rung=rung, degraded=degraded)

    async def rank(self, live: LiveBundle, request: RankRequest) -> Answer:
        """Give the known items of ``request.item_ids`` in order, each once.

        Raises:
            InputError: when the objective weights do not fit the bundle.
        """
        bundle, weights = live.bundle, request.objective_weights
        check_weights(bundle.dimensions.objectives, weights)
        deadline = Deadline.after_ms(self.config.deadline_ms)
        rows = bundle.vocabulary.indexes(dict.fromkeys(request.item_ids))
        rows = rows[rows != 0]
        user: UserContext | None = None
        rung: Rung = "full"
        degraded = ""
        try:
            user = await live.user(request.user_id, deadline.within_ms(self.config.features_ms))
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
        return Answer(ranked=ranked, user=user, rung=rung, degraded=degraded)

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

    def _excluded(self, bundle: ServedBundle, request: RecommendRequest) -> Int32s:
        """Give every row the search should leave out, the user's history apart."""
        return filters.union(
            filters.excluded_items(bundle.vocabulary.index_of, request.exclude_item_ids),
            filters.excluded_by_category(
                bundle.category_index,
                bundle.vocabulary.category_index_of,
                wanted=request.filters.categories,
                unwanted=request.filters.exclude_categories,
            ),
        )

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
