"""The documentation is true: OpenAPI against the app, ``docs/api.md`` against the types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from recsys import wire
from recsys.events.batch import decode_batch
from serving.api.endpoints import ENDPOINTS
from serving.api.openapi import openapi_document
from serving.api.problems import STATUS
from tests.serving.api.memory_api import MemoryApi, memory_api

PAGE = Path("docs/api.md").read_text()
BLOCK = re.compile(r"^```json ([^\n]+)\n(.*?)^```$", re.M | re.S)
DOCUMENT = openapi_document()


@pytest.fixture(scope="module")
def api() -> Iterator[MemoryApi]:
    with memory_api() as running:
        yield running


def schema_of(path: str, method: str, status: int) -> dict[str, Any]:
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    return {**content["application/json"]["schema"], "components": DOCUMENT["components"]}


def samples() -> list[tuple[str, Any]]:
    return [(head, json.loads(body)) for head, body in BLOCK.findall(PAGE)]


def test_page_document_and_router_name_the_same_routes(api: MemoryApi) -> None:
    in_page = set(re.findall(r"^\| `([A-Z]+) (/\S+)` \|", PAGE, re.M))
    in_table = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    in_document = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item
    }
    assert in_page == in_table == in_document
    assert api.client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


def test_page_lists_every_error_code_with_its_status() -> None:
    in_page = {
        code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.M)
    }
    assert in_page == STATUS


def test_page_lists_every_field_of_a_recommendation_request() -> None:
    table = PAGE[PAGE.index("| field | default |") : PAGE.index("Filters work during")]
    in_page = tuple(re.findall(r"^\| `(\w+)` \|", table, re.M))
    assert in_page == wire.RecommendRequest.__struct_fields__


def test_sample_requests_are_valid() -> None:
    requests = {head: value for head, value in samples() if head.startswith("POST")}
    assert set(requests) == {"POST /v1/recommendations", "POST /v1/rank", "POST /v1/events"}
    msgspec.convert(requests["POST /v1/recommendations"], wire.RecommendRequest)
    msgspec.convert(requests["POST /v1/rank"], wire.RankRequest)
    batch = decode_batch(json.dumps(requests["POST /v1/events"]).encode(), now_ms=None)
    assert (len(batch.accepted), len(batch.refused)) == (1, 1)
    told = next(value for head, value in samples() if head == "202")
    assert batch.refused[0].reason == told["refusals"][0]["message"]


def test_sample_answers_have_the_fields_of_the_types() -> None:
    kinds: dict[str, Any] = {
        "request_id+rung": wire.RecommendResponse,
        "accepted": wire.EventsResponse,
        "error": wire.ErrorResponse,
    }
    for head, value in samples():
        if head.startswith("POST"):
            continue
        if "parts" in value:
            kind = wire.ReplayResponse
        elif "request_id" in value:
            scored = "known" in value["items"][0]
            kind = wire.RankResponse if scored else wire.RecommendResponse
        elif "items" in value:
            kind = wire.SimilarResponse
        elif "features" in value:
            kind = wire.UserResponse
        else:
            kind = kinds["accepted" if "accepted" in value else "error"]
        again = json.loads(msgspec.json.encode(msgspec.convert(value, kind)))
        assert again == value, head


ANSWERED = [
    ("post", "/v1/recommendations", "/v1/recommendations", {"user_id": "ann", "explain": True}),
    ("post", "/v1/recommendations", "/v1/recommendations", {"user_id": ""}),
    ("post", "/v1/rank", "/v1/rank", {"user_id": "ann", "item_ids": ["item-1", "new"]}),
    ("get", "/v1/items/{item_id}/similar", "/v1/items/item-1/similar", None),
    ("get", "/v1/items/{item_id}/similar", "/v1/items/new/similar", None),
    ("post", "/v1/events", "/v1/events", [{"kind": "?"}]),
    ("get", "/v1/users/{user_id}", "/v1/users/ann", None),
    ("get", "/healthz", "/healthz", None),
    ("get", "/readyz", "/readyz", None),
]


@pytest.mark.parametrize(("method", "path", "url", "body"), ANSWERED)
def test_answers_fit_their_schema_in_the_document(
    api: MemoryApi, method: str, path: str, url: str, body: Any
) -> None:
    options = {} if body is None else {"json": body}
    response = api.client.request(method.upper(), url, **options)
    jsonschema.validate(response.json(), schema_of(path, method, response.status_code))
