"""``POST /v1/recommendations`` and ``POST /v1/rank``: the hot routes."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from recsys import explanations
from recsys.bundle.served import ServedBundle
from recsys.feedback.exposure import Exposure
from recsys.feedback.request_ids import new_request_id
from recsys.pipeline import Answer
from recsys.replay.kept import context_kept, kept
from recsys.stage_times import SERVER_TIMING, note_stages, server_timing
from recsys.wire import (
    RankedItem,
    RankRequest,
    RankResponse,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    UserSummary,
)
from serving.api.deadlines import deadline_of
from serving.api.decoding import check_identifier, decode, read_body
from serving.api.overload import unasked_reason
from serving.api.routes.json_response import json_response
from serving.api.services import Services

_recommend_decoder = msgspec.json.Decoder(RecommendRequest)
_rank_decoder = msgspec.json.Decoder(RankRequest)


async def recommend(request: Request) -> Response:
    """Answer ``POST /v1/recommendations``."""
    start = perf_counter()
    note_stages()
    services: Services = request.app.state.services
    deadline = deadline_of(request, services.pipeline)
    body = await read_body(request)
    wanted = decode(_recommend_decoder, body)
    check_identifier(wanted.user_id, "user_id")
    request_id = wanted.request_id or new_request_id()
    check_identifier(request_id, "request_id")
    if services.bundles.current is None and services.static is not None and not wanted.bundle:
        bundle = services.static
        answer = services.pipeline.recommend_static(
            bundle,
            wanted,
            request_id=request_id,
            deadline=deadline,
            reason="no bundle has been taken up yet",
        )
    else:
        live = services.live(wanted.bundle)
        bundle = live.bundle
        answer = await services.pipeline.recommend(
            live,
            wanted,
            request_id=request_id,
            deadline=deadline,
            unasked=unasked_reason(request),
        )
    ranked = answer.ranked
    item_ids = bundle.vocabulary.item_ids
    why = explanations.reasons(bundle, answer) if wanted.explain else [None] * len(ranked)
    items = [
        RecommendedItem(
            item_id=item_ids[row - 1],
            score=score,
            position=position,
            title=bundle.title[row],
            category=bundle.category(row),
            reasons=reasons,
        )
        for position, (row, score, reasons) in enumerate(
            zip(ranked.item_index.tolist(), ranked.score.tolist(), why, strict=True)
        )
    ]
    _expose(services, "recommendations", request_id, wanted.user_id, answer, bundle, items, body)
    said = _said(request_id, wanted, answer, bundle)
    return json_response(
        RecommendResponse(items=items, took_ms=_since_ms(start), **said), headers=_stages()
    )


async def rank(request: Request) -> Response:
    """Answer ``POST /v1/rank``."""
    start = perf_counter()
    note_stages()
    services: Services = request.app.state.services
    deadline = deadline_of(request, services.pipeline)
    body = await read_body(request)
    wanted = decode(_rank_decoder, body)
    check_identifier(wanted.user_id, "user_id")
    live = services.live(wanted.bundle)
    bundle = live.bundle
    answer = await services.pipeline.rank(
        live, wanted, deadline=deadline, unasked=unasked_reason(request)
    )
    ranked = answer.ranked
    request_id = new_request_id()
    vocabulary = bundle.vocabulary
    why = explanations.reasons(bundle, answer) if wanted.explain else [None] * len(ranked)
    items = [
        RankedItem(
            item_id=vocabulary.item_ids[row - 1],
            position=position,
            known=True,
            score=score,
            title=bundle.title[row],
            category=bundle.category(row),
            reasons=reasons,
        )
        for position, (row, score, reasons) in enumerate(
            zip(ranked.item_index.tolist(), ranked.score.tolist(), why, strict=True)
        )
    ]
    scored = {item.item_id for item in items}
    for item_id in dict.fromkeys(wanted.item_ids):
        if item_id not in scored:
            items.append(RankedItem(item_id=item_id, position=len(items), known=False))
    _expose(services, "rank", request_id, wanted.user_id, answer, bundle, items, body)
    said = _said(request_id, wanted, answer, bundle)
    return json_response(
        RankResponse(items=items, took_ms=_since_ms(start), **said), headers=_stages()
    )


def _said(
    request_id: str, wanted: RecommendRequest | RankRequest, answer: Answer, bundle: ServedBundle
) -> dict[str, Any]:
    """Give what both kinds of answers say beside their items."""
    return {
        "request_id": request_id,
        "user_id": wanted.user_id,
        "known": answer.user is not None and answer.user.known,
        "bundle": bundle.bundle_id,
        "rung": answer.rung,
        "item_features_age_ms": answer.ranked.item_age_ms,
        "degraded": answer.degraded,
        "features": _features(bundle, answer) if wanted.explain else None,
    }


def _features(bundle: ServedBundle, answer: Answer) -> UserSummary | None:
    return explanations.user_summary(bundle, answer.user) if answer.user is not None else None


def _stages() -> dict[str, str]:
    said = server_timing()
    return {SERVER_TIMING: said} if said else {}


def _since_ms(start: float) -> float:
    return round((perf_counter() - start) * 1e3, 3)


def _expose(
    services: Services,
    route: Literal["recommendations", "rank"],
    request_id: str,
    user_id: str,
    answer: Answer,
    bundle: ServedBundle,
    items: Sequence[RecommendedItem | RankedItem],
    body: bytes,
) -> None:
    age_ms = answer.ranked.item_age_ms
    services.item_age.seen(age_ms)

    def make() -> Exposure:
        """Called in another thread; nothing it looks at changes."""
        user = answer.user
        return Exposure(
            request_id=request_id,
            user_id=user_id,
            route=route,
            now_ms=answer.now_ms,
            bundle=bundle.bundle_id,
            rung=answer.rung,
            policy=answer.policy,
            propensities=list(answer.propensities),
            rules=answer.rules_version,
            item_ids=[item.item_id for item in items],
            scores=[item.score for item in items],
            features=Exposure.tensors(context_kept(user, bundle)) if user is not None else {},
            features_as_of_ms=user.as_of_ms if user is not None else None,
            item_features_age_ms=age_ms,
            degraded=answer.degraded,
            replay=kept(answer, bundle),
            request=msgspec.Raw(body),
        )

    services.exposures.offer(make)
