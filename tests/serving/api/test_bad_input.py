"""Bad input: every answer is the documented one, nothing crashes, nothing valid is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, now_ms
from recsys.events.codec import decode
from recsys.wire import MAX_BODY_BYTES, RankRequest, RecommendRequest
from serving.api.endpoints import ENDPOINTS
from serving.api.problems import STATUS
from tests.serving.api.memory_api import MemoryApi, memory_api

QUICK = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=8,
)
POSTS = [endpoint for endpoint in ENDPOINTS if endpoint.method == "POST"]


@pytest.fixture(scope="module")
def api() -> Iterator[MemoryApi]:
    with memory_api() as running:
        yield running


def post(api: MemoryApi, path: str, body: bytes | object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.client.post(path, content=content)


def check_documented(path: str, response: httpx.Response) -> None:
    """The status is documented for this path, and the body names code, message and field."""
    endpoint = next(endpoint for endpoint in ENDPOINTS if endpoint.path == path)
    documented = {endpoint.status} | {STATUS[code] for code in endpoint.problems}
    assert response.status_code in documented, (response.status_code, response.text)
    if response.status_code >= 400:
        error = response.json()["error"]
        assert STATUS[error["code"]] == response.status_code
        assert error["message"]
        assert isinstance(error.get("field", ""), str)


def problem(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error.get("field", "")


@pytest.mark.parametrize("path", [endpoint.path for endpoint in POSTS])
@QUICK
@given(body=st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_get_a_documented_answer(api: MemoryApi, path: str, body: bytes) -> None:
    check_documented(path, post(api, path, body))


FIELDS = {
    "/v1/recommendations": RecommendRequest.__struct_fields__,
    "/v1/rank": RankRequest.__struct_fields__,
}
VALID: dict[str, dict[str, Any]] = {
    "/v1/recommendations": {"user_id": "ann"},
    "/v1/rank": {"user_id": "ann", "item_ids": ["item-1"]},
}


@pytest.mark.parametrize("path", list(FIELDS))
@QUICK
@given(data=st.data())
def test_any_value_in_any_field_gets_a_documented_answer(
    api: MemoryApi, path: str, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(FIELDS[path]))
    value = data.draw(JSON_VALUES | st.integers() | st.floats(allow_nan=False) | st.text())
    response = post(api, path, VALID[path] | {field: value})
    check_documented(path, response)
    if response.status_code == 422:
        assert response.json()["error"]["field"].startswith(field)


@pytest.mark.parametrize("k", [0, -1, 10**9, 501, 1.5, "5", None, True, [5], 2**80])
def test_wrong_k_names_the_field(api: MemoryApi, k: object) -> None:
    response = post(api, "/v1/recommendations", {"user_id": "ann", "k": k})
    assert problem(response) == (422, "invalid", "k")
    if not isinstance(k, list):
        response = api.client.get("/v1/items/item-1/similar", params={"k": k})
        expected = (200,) if k in ("5",) else (422,)
        assert response.status_code in expected, response.text


def test_largest_k_gives_what_there_is(api: MemoryApi) -> None:
    response = post(api, "/v1/recommendations", {"user_id": "ann", "k": 500})
    assert len(response.json()["items"]) == 40


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed", "")),
        (b"{", (400, "malformed", "")),
        (b'{"user_id": "ann"} trailing', (400, "malformed", "")),
        (b'{"user_id": "\xff\xfe"}', (400, "malformed", "")),
        (b'{"user_id": NaN}', (400, "malformed", "user_id")),
        (b"[" * 100_000, (422, "invalid", "")),
        (b"[]", (422, "invalid", "")),
        (b"{}", (422, "invalid", "user_id")),
        (b'{"user_id": ""}', (422, "invalid", "user_id")),
        (b'{"user_id": "a\\u0000b"}', (422, "invalid", "user_id")),
        (b'{"user_id": 5}', (422, "invalid", "user_id")),
        (b'{"user_id": "ann", "colour": 1}', (422, "invalid", "colour")),
        (b'{"user_id": "ann", "filters": {"x": 1}}', (422, "invalid", "filters.x")),
        (b'{"user_id": "ann", "diversity": 1.5}', (422, "invalid", "diversity")),
        (
            b'{"user_id": "ann", "objective_weights": {"joy": 1}}',
            (422, "invalid", "objective_weights.joy"),
        ),
        (
            b'{"user_id": "ann", "objective_weights": {"click": 0}}',
            (422, "invalid", "objective_weights"),
        ),
        (b'{"user_id": "' + b"x" * 2_000_000 + b'"}', (413, "too_large", "")),
    ],
)
def test_bad_recommendation_requests(
    api: MemoryApi, body: bytes, expected: tuple[int, str, str]
) -> None:
    assert problem(post(api, "/v1/recommendations", body)) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "user_id: wanted this field, found none"),
        (
            b'{"user_id": "ann", "x": 1}',
            "x: wanted only fields of the schema, found an unknown field",
        ),
        (b'{"user_id": "ann", "k": 0}', "k: wanted int >= 1, found 0"),
        (
            b'{"user_id": "ann", "context": {"page": "home", "device": 5}}',
            "context.device: wanted str, found int",
        ),
        (
            b'{"user_id": "ann", "objective_weights": {"click": 1, "purchase": -2}}',
            "objective_weights.purchase: wanted float >= 0.0, found -2",
        ),
        (
            b'{"user_id": "\\ud800"}',
            r"user_id: wanted Unicode text, found half a surrogate pair, \ud800 at byte 13",
        ),
    ],
)
def test_a_message_names_field_wanted_and_found(api: MemoryApi, body: bytes, message: str) -> None:
    assert post(api, "/v1/recommendations", body).json()["error"]["message"] == message


def test_bad_rank_requests(api: MemoryApi) -> None:
    for items, field in (([], "item_ids"), (["i"] * 2001, "item_ids"), ([5], "item_ids[0]")):
        answer = post(api, "/v1/rank", {"user_id": "ann", "item_ids": items})
        assert problem(answer) == (422, "invalid", field)


@pytest.mark.parametrize("path", [endpoint.path for endpoint in POSTS])
def test_two_megabytes_are_refused_with_or_without_a_stated_length(
    api: MemoryApi, path: str
) -> None:
    body = b" " * (2 * MAX_BODY_BYTES)
    assert problem(post(api, path, body))[:2] == (413, "too_large")

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * (MAX_BODY_BYTES // 10)

    assert problem(api.client.post(path, content=chunks()))[:2] == (413, "too_large")


@QUICK
@given(item_id=st.text(min_size=1, max_size=140), k=st.text(max_size=12))
def test_any_item_and_k_of_similar(api: MemoryApi, item_id: str, k: str) -> None:
    path = f"/v1/items/{quote(item_id, safe='').replace('.', '%2E')}/similar"
    check_documented("/v1/items/{item_id}/similar", api.client.get(path, params={"k": k}))


@QUICK
@example(user_id=b".")
@example(user_id=b"..")
@given(
    user_id=st.text(min_size=1, max_size=140).map(str.encode) | st.binary(min_size=1, max_size=20)
)
def test_any_bytes_as_a_user(api: MemoryApi, user_id: bytes) -> None:
    path = quote(user_id, safe="")
    if user_id in (b".", b".."):  # clients take them for steps in the tree
        path = path.replace(".", "%2E")
    response = api.client.get(f"/v1/users/{path}")
    check_documented("/v1/users/{user_id}", response)
    try:
        text = user_id.decode()
    except UnicodeDecodeError:
        assert problem(response) == (400, "malformed", "path")
    else:
        if response.status_code == 200:
            assert response.json()["user_id"] == text


@pytest.mark.parametrize(
    ("url", "field", "found"),
    [
        ("/v1/users/%ff%fe", "path", "found /v1/users/%ff%fe"),
        ("/v1/items/%C3/similar", "path", "found /v1/items/%C3/similar"),
        ("/nowhere/%ff", "path", "found /nowhere/%ff"),
        ("/v1/items/item-1/similar?k=%ff", "k", "found %ff"),
        ("/v1/users/ann?%ff=1", "query", "found %ff=1"),
        ("/healthz?a=1&b=2%C3", "b", "found 2%C3"),
    ],
)
def test_a_url_that_is_not_utf8_is_not_repaired(
    api: MemoryApi, url: str, field: str, found: str
) -> None:
    response = api.client.get(url)
    assert problem(response) == (400, "malformed", field)
    message = response.json()["error"]["message"]
    assert message == f"{field}: wanted UTF-8 in percent-encoding, {found}"


@pytest.mark.parametrize(
    "path", ["/v1/users/ann%0A", "/v1/users/a%0Ann", "/v1/items/item-1/similar%0A"]
)
def test_a_line_break_in_a_path_is_not_dropped(api: MemoryApi, path: str) -> None:
    assert problem(api.client.get(path)) == (422, "invalid", "path")


def test_unknown_item_parameter_and_path(api: MemoryApi) -> None:
    assert problem(api.client.get("/v1/items/nope/similar")) == (404, "not_found", "item_id")
    answer = api.client.get("/v1/items/item-1/similar", params={"limit": 3})
    assert problem(answer) == (422, "invalid", "limit")
    assert problem(api.client.get("/v1/users/" + "u" * 129)) == (422, "invalid", "user_id")
    assert problem(api.client.get("/v2/anything")) == (404, "not_found", "")
    wrong_method = api.client.get("/v1/recommendations")
    assert problem(wrong_method) == (405, "method_not_allowed", "")


# ---- events -----------------------------------------------------------------------------------


def event(event_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "interaction",
        "event_id": event_id,
        "event_time_ms": now_ms(),
        "user_id": "ann",
        "item_id": "item-1",
        "type": "click",
    } | changes


BAD_EVENTS: dict[str, Any] = {
    "from the future": {"event_time_ms": now_ms() + DAY_MS},
    "from 1970": {"event_time_ms": 12},
    "in seconds": {"event_time_ms": now_ms() // 1000},
    "unknown field": {"colour": "red"},
    "wrong type": {"item_id": 7},
    "no item": {"item_id": ""},
    "unknown kind": {"kind": "dream"},
    "control character": {"user_id": "a\nb"},
    "odd type name": {"type": "Click!"},
    "not finite": {"value": float("inf")},
    "not an event": None,
}


@settings(QUICK, max_examples=80)
@given(
    plan=st.lists(st.sampled_from(["good", "duplicate", *BAD_EVENTS]), min_size=1, max_size=12),
    envelope=st.booleans(),
)
def test_nothing_valid_in_a_batch_is_lost(plan: list[str], envelope: bool) -> None:
    with memory_api() as api:
        batch: list[Any] = []
        good: list[str] = []
        for place, kind in enumerate(plan):
            if kind == "good" or (kind == "duplicate" and not good):
                good.append(f"e{place}")
                batch.append(event(good[-1]))
            elif kind == "duplicate":
                batch.append(event(good[-1]))
            else:
                changes = BAD_EVENTS[kind]
                batch.append([kind] if changes is None else event(f"e{place}", **changes))
        response = post(api, "/v1/events", {"events": batch} if envelope else batch)
        check_documented("/v1/events", response)
        body = response.json()
        assert response.status_code == (202 if good else response.status_code)
        assert bool(good) == (response.status_code == 202)
        assert body.get("accepted", 0) == len(good)
        assert body.get("refused", 0) == len(batch) - len(good)
        if not any(kind == "not finite" for kind in plan):  # that one breaks the JSON around it
            assert all(r["field"].startswith("events[") for r in body.get("refusals", []))
        reader = api.log.reader(topics=[api.topics.behaviour], group="check")
        records = reader.poll(timeout_ms=0, max_records=1000)
        assert sorted(decode(r.value).event_id for r in records) == sorted(good)


def test_bad_events_name_their_field(api: MemoryApi) -> None:
    body = [event("g"), *(event(f"b{i}", **c) for i, c in enumerate(BAD_EVENTS.values()) if c)]
    refusals = post(api, "/v1/events", body).json()["refusals"]
    assert [refusal["field"] for refusal in refusals] == [
        "events[1].event_time_ms",
        "events[2].event_time_ms",
        "events[3].event_time_ms",
        "events[4].colour",
        "events[5].item_id",
        "events[6].item_id",
        "events[7].kind",
        "events[8].user_id",
        "events[9].type",
        "events[10].value",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", (422, "invalid", "events")),
        (b'{"events": []}', (422, "invalid", "events")),
        (b'{"events": 5}', (422, "invalid", "events")),
        (b"\xff\xfe", (400, "malformed", "")),
        (b"5", (422, "invalid", "")),
        (b"nonsense", (400, "malformed", "")),
        (b'{"events": [], "more": 1}', (422, "invalid", "more")),
    ],
)
def test_bodies_that_are_no_events(
    api: MemoryApi, body: bytes, expected: tuple[int, str, str]
) -> None:
    assert problem(post(api, "/v1/events", body)) == expected


def test_one_bad_event_alone_is_an_error_that_names_its_field(api: MemoryApi) -> None:
    response = post(api, "/v1/events", event("e1", event_time_ms=12))
    assert problem(response) == (422, "invalid", "events[0].event_time_ms")
    assert response.json()["refused"] == 1
    two = post(api, "/v1/events", [event("e1", item_id=""), event("e2", item_id="")])
    assert problem(two) == (422, "all_refused", "events[0].item_id")
