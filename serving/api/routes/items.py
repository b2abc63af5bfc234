"""``GET /v1/items/{item_id}/similar``."""

from __future__ import annotations

from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response

from recsys.wire import MAX_K, SimilarItem, SimilarResponse
from serving.api.deadlines import deadline_of
from serving.api.decoding import check_identifier, integer_parameter, refuse_unknown_parameters
from serving.api.problems import Problem
from serving.api.routes.json_response import json_response
from serving.api.services import Services

DEFAULT_K = 10


async def similar(request: Request) -> Response:
    """Answer ``GET /v1/items/{item_id}/similar``."""
    start = perf_counter()
    services: Services = request.app.state.services
    refuse_unknown_parameters(request, frozenset({"k"}))
    item_id = check_identifier(request.path_params["item_id"], "item_id")
    k = integer_parameter(request, "k", default=DEFAULT_K, lowest=1, highest=MAX_K)
    live = services.live()
    bundle = live.bundle
    row = bundle.vocabulary.index_of.get(item_id)
    if row is None:
        raise Problem(
            "not_found",
            f"item_id: wanted an item of bundle {bundle.bundle_id} or one created since, found "
            f"{item_id!r}; send an item event of it first",
            field="item_id",
        )
    rows, scores = await services.pipeline.similar(
        live, row, k=k, deadline=deadline_of(request, services.pipeline)
    )
    items = [
        SimilarItem(
            item_id=bundle.vocabulary.item_ids[found - 1],
            score=score,
            position=position,
            title=bundle.title[found],
            category=bundle.category(found),
        )
        for position, (found, score) in enumerate(zip(rows.tolist(), scores, strict=True))
    ]
    return json_response(
        SimilarResponse(
            item_id=item_id,
            items=items,
            bundle=bundle.bundle_id,
            took_ms=round((perf_counter() - start) * 1e3, 3),
        )
    )
