"""Answers about items that are given: a list put in order, and what is like one item."""

from __future__ import annotations

from recsys.answers.answer import Answer
from recsys.answers.budgets import PipelineConfig
from recsys.answers.failures import stage_failed
from recsys.deadline import Deadline
from recsys.errors import OverloadedError, StageError
from recsys.features.batch import Int32s
from recsys.inference.live import LiveBundle
from recsys.inference.user_reading import UserContext
from recsys.ranking import from_memory
from recsys.ranking.blending import blend, check_weights
from recsys.ranking.popular import popular
from recsys.resilience.recent_users import NO_PAST
from recsys.telemetry import served_by
from recsys.wire import RankRequest, Rung


async def ranked_items(
    live: LiveBundle,
    request: RankRequest,
    *,
    budgets: PipelineConfig,
    deadline: Deadline,
    now_ms: int,
    unasked: str,
) -> Answer:
    """Give the known items of ``request.item_ids`` in order, each once.

    Raises:
        InputError: when the objective weights do not fit the bundle.
    """
    bundle, weights = live.bundle, request.objective_weights
    check_weights(bundle.dimensions.objectives, weights)
    rows = bundle.vocabulary.indexes(dict.fromkeys(request.item_ids))
    rows = rows[rows != 0]
    user: UserContext | None = None
    rung: Rung = "full"
    degraded = ""
    try:
        if unasked:
            raise OverloadedError(unasked, stage="admission")
        user = await live.user(request.user_id, budgets.for_features(deadline), request.context)
        if len(rows):
            ranked = await live.rank(user, rows, deadline=deadline)
        else:
            ranked = popular(bundle, limit=0)
    except StageError as error:
        past = user.past if user else live.recent_users.find(request.user_id) or NO_PAST
        found = from_memory.order(bundle, past, rows, now_ms=now_ms)
        rung, ranked = found.rung, found.ranked
        degraded = "; ".join(part for part in (stage_failed("rank", error), found.said) if part)
    if rung == "full" and weights and len(ranked):
        objectives = bundle.dimensions.objectives
        ranked = ranked.with_score(blend(ranked.objective_score, objectives, weights))
    served_by(rung).inc()
    return Answer(ranked=ranked, user=user, rung=rung, degraded=degraded, now_ms=now_ms)


async def similar_items(
    live: LiveBundle, row: int, *, k: int, deadline: Deadline
) -> tuple[Int32s, list[float]]:
    """Give rows and cosines of the nearest items that may be shown; there is no fallback.

    Raises:
        StageError: when the model server fails or is late.
    """
    wanted = min(k + live.bundle.num_withdrawn, live.bundle.vocabulary.num_items)
    rows, score = await live.similar(row, k=min(wanted, 4 * k), deadline=deadline)
    kept = live.bundle.available[rows]
    return rows[kept][:k], score[kept][:k].tolist()
