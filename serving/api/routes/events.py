"""``POST /v1/events``: one event or many; good ones are kept whatever the others are."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from recsys.errors import EventError
from recsys.events.batch import decode_batch
from recsys.events.codec import encode
from recsys.telemetry import EVENTS_ACCEPTED, EVENTS_REFUSED
from recsys.wire import EventRefusal, EventsResponse
from serving.api.decoding import read_body
from serving.api.problems import Code, Problem
from serving.api.routes.json_response import json_response
from serving.api.services import Services


async def events(request: Request) -> Response:
    """Answer ``POST /v1/events``: 202 once the log has acknowledged the good ones."""
    services: Services = request.app.state.services
    body = await read_body(request)
    try:
        batch = decode_batch(body, now_ms=services.clock())
    except EventError as error:
        EVENTS_REFUSED.labels(error.code).inc()
        code: Code = "malformed" if error.code == "malformed" else "invalid"
        raise Problem(code, str(error), field=error.field) from error
    refusals = [
        EventRefusal(
            index=refusal.index, field=refusal.path, code=refusal.code, message=refusal.reason
        )
        for refusal in batch.refused
    ]
    for reason, count in Counter(refusal.code for refusal in refusals).items():
        EVENTS_REFUSED.labels(reason).inc(count)
    if not batch.accepted:
        raise _nothing_accepted(refusals)
    records = [(*services.topics.route(event), encode(event)) for _, event in batch.accepted]
    await services.events.publish(records)
    kinds = Counter(type(event).__struct_config__.tag for _, event in batch.accepted)
    for kind, count in kinds.items():
        EVENTS_ACCEPTED.labels(kind).inc(count)
    return json_response(
        EventsResponse(accepted=len(records), refused=len(refusals), refusals=refusals),
        status_code=202,
    )


def _nothing_accepted(refusals: list[EventRefusal]) -> Problem:
    if not refusals:
        return Problem(
            "invalid", "events: wanted at least one event, found an empty list", field="events"
        )
    first = refusals[0]
    malformed = all(refusal.code == "malformed" for refusal in refusals)
    if len(refusals) == 1:
        code: Code = "malformed" if malformed else "invalid"
        return Problem(code, first.message, field=first.field, refusals=refusals)
    return Problem(
        "all_refused",
        f"none of the {len(refusals)} events was taken; the first: {first.message}",
        field=first.field,
        refusals=refusals,
    )
