"""From what may be shown to what is: re-ranking within the time that is left, and counting."""

from __future__ import annotations

from recsys.answers.answer import Answer
from recsys.answers.asked import Asked
from recsys.bundle.served import ServedBundle
from recsys.feedback.exposure import GREEDY
from recsys.inference.user_reading import UserContext
from recsys.ranking.exploration import Policy
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import Applying
from recsys.ranking.reranking import NO_DIVERSITY, Diversity, Exploring, Reranked, rerank
from recsys.stage_times import stage
from recsys.telemetry import ANSWERS_EXPLORED, STAGE_FAILURES, served_by
from recsys.wire import RecommendRequest, Rung

RERANK_LATE = "stage rerank late"
"""What an answer says that went out without diversity and exploration."""


def reranked_answer(
    asked: Asked,
    ranked: RankedItems,
    rung: Rung,
    degraded: str,
    rules: Applying,
    *,
    user: UserContext | None,
    policy: Policy | None,
) -> Answer:
    """Re-rank what may be shown, and count.

    Where the time is used up, the list goes out without diversity and exploration, and says so.
    """
    is_late = asked.deadline.remaining_s() <= 0 and bool(
        asked.request.diversity or policy is not None
    )
    if is_late:
        policy = None
        STAGE_FAILURES.labels("rerank", "late").inc()
        late = f"recommend: {RERANK_LATE}: no diversity, no exploration"
        degraded = f"{degraded}; {late}" if degraded else late
    with stage("rerank"):
        shown = choose(
            asked.request, ranked, asked.bundle, rung, rules,
            policy=policy, is_late=is_late, request_id=asked.request_id, now_ms=asked.now_ms,
        )  # fmt: skip
    served_by(rung).inc()
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


def choose(
    request: RecommendRequest,
    ranked: RankedItems,
    bundle: ServedBundle,
    rung: Rung,
    rules: Applying,
    *,
    policy: Policy | None,
    is_late: bool,
    request_id: str,
    now_ms: int,
) -> Reranked:
    """Choose the list of a request from what may be shown, now or when it is asked again.

    ``is_late``: without diversity, as there was no time for it.
    """
    diversity = Diversity(
        amount=request.diversity, method=request.diversity_method, by=request.diversity_by
    )
    exploring = None
    if policy is not None:
        exploring = Exploring(policy=policy, user_id=request.user_id, request_id=request_id)
    return rerank(
        ranked,
        bundle,
        k=request.k,
        are_probabilities=rung == "full" and bool(request.objective_weights),
        diversity=NO_DIVERSITY if is_late else diversity,
        applying=rules,
        exploring=exploring,
        now_ms=now_ms,
    )
