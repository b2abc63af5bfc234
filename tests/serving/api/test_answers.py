"""What the API answers when everything is in order, and when a part is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.loadtest.server_timing import note_stages
from recsys.clock import now_ms
from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, ServerError, StageError
from recsys.features.names import token_hash
from recsys.inference.model import Arrays
from tests.inference.toy_bundle import toy_bundle
from tests.serving.api.memory_api import MemoryApi, memory_api


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    with memory_api() as running:
        yield running


def click(user_id: str, item_id: str, event_id: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "interaction",
        "event_id": event_id,
        "event_time_ms": now_ms(),
        "user_id": user_id,
        "item_id": item_id,
        "type": "click",
        **more,
    }


def recommend(api: MemoryApi, **body: Any) -> dict[str, Any]:
    response = api.client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_an_answer_says_where_its_time_went(api: MemoryApi) -> None:
    body = {"user_id": "ann", "k": 2}
    answers = [
        api.client.post("/v1/recommendations", json=body),
        api.client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["item-3", "item-2"]}),
    ]
    stages: list[dict[str, list[float]]] = [{}, {}]
    for answer, found in zip(answers, stages, strict=True):
        note_stages(answer.headers["server-timing"].encode(), found)
    assert [list(found) for found in stages] == [
        ["features", "recommend", "rerank"], ["features", "rank"],
    ]  # fmt: skip
    for answer, found in zip(answers, stages, strict=True):
        assert 0.0 < sum(sum(ms) for ms in found.values()) < answer.json()["took_ms"]


def test_unknown_user_gets_the_cold_start(api: MemoryApi) -> None:
    answer = recommend(api, user_id="nobody", k=5)
    assert answer["known"] is False
    assert answer["rung"] == "full"
    assert answer["bundle"] == "toy"
    assert len(answer["items"]) == 5
    assert [item["position"] for item in answer["items"]] == [0, 1, 2, 3, 4]
    assert answer["items"][0]["title"].startswith("Item ")


def test_a_click_changes_the_next_answer(api: MemoryApi) -> None:
    before = recommend(api, user_id="ann", k=5)
    response = api.client.post("/v1/events", json=click("ann", ids(before)[0], "e1"))
    assert response.status_code == 202
    assert response.json() == {"accepted": 1, "refused": 0}
    after = recommend(api, user_id="ann", k=5)
    assert after["known"] is True
    assert ids(before)[0] not in ids(after)
    assert ids(after) != ids(before)[1:]


def test_seen_items_come_back_when_asked_for(api: MemoryApi) -> None:
    api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
    assert "item-7" not in ids(recommend(api, user_id="ann", k=40))
    assert "item-7" in ids(recommend(api, user_id="ann", k=40, exclude_seen=False))


def test_excluded_items_and_categories_leave_k_items(api: MemoryApi) -> None:
    exclude = [f"item-{row}" for row in range(1, 20)] + ["no such item"]
    answer = recommend(
        api, user_id="ann", k=5, exclude_item_ids=exclude, filters={"categories": ["tea", "?"]}
    )
    assert len(answer["items"]) == 5
    assert {item["category"] for item in answer["items"]} == {"tea"}
    assert not set(ids(answer)) & set(exclude)
    answer = recommend(api, user_id="ann", k=40, filters={"exclude_categories": ["tea"]})
    assert {item["category"] for item in answer["items"]} == {"books", "mugs"}
    assert recommend(api, user_id="ann", filters={"categories": ["?"]})["items"] == []


def test_tags_are_wanted_and_unwanted_beside_categories(api: MemoryApi) -> None:
    filters = {"tags": ["even=true"], "categories": ["tea", "mugs"]}
    rows = {int(name[5:]) for name in ids(recommend(api, user_id="ann", k=40, filters=filters))}
    assert rows == {row for row in range(1, 41) if row % 2 == 0 and row % 3 != 0}
    odd = ids(recommend(api, user_id="ann", k=40, filters={"exclude_tags": ["even=true"]}))
    assert {int(name[5:]) % 2 for name in odd} == {1} and len(odd) == 20
    api.users.failure = OSError("down")  # the list of last resort is filtered as well
    answer = recommend(api, user_id="ann", k=40, filters=filters)
    assert answer["rung"] == "popular" and {int(name[5:]) for name in ids(answer)} == rows


def test_category_cap_and_diversity(api: MemoryApi) -> None:
    answer = recommend(api, user_id="ann", k=6, max_per_category=2)
    categories = [item["category"] for item in answer["items"]]
    assert sorted(categories) == ["books", "books", "mugs", "mugs", "tea", "tea"]
    answer = recommend(api, user_id="ann", k=3, diversity=0.9)
    assert {item["category"] for item in answer["items"]} == {"books", "mugs", "tea"}


def test_objective_weights_change_the_blend(api: MemoryApi) -> None:
    answer = recommend(api, user_id="ann", k=5, objective_weights={"purchase": 2}, explain=True)
    for item in answer["items"]:
        assert item["score"] == pytest.approx(item["reasons"]["objectives"]["purchase"], abs=1e-5)


def test_reasons_name_sources_objectives_and_features(api: MemoryApi) -> None:
    api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
    answer = recommend(api, user_id="ann", k=3, explain=True)
    reasons = answer["items"][0]["reasons"]
    assert set(reasons["sources"]) == {"two_tower", "popular"}
    assert set(reasons["objectives"]) == {"click", "purchase"}
    features = answer["features"]
    assert features["activity"] == {"clicks_1h": 1.0, "clicks_1d": 1.0}
    assert features["categories"] == {"mugs": {"clicks_1d": 1.0, "clicks_7d": 1.0}}
    assert features["history"][0]["item_id"] == "item-7"
    assert features["history"][0]["title"] == "Item 7"


def test_rank_orders_given_items_and_flags_unknown_ones(api: MemoryApi) -> None:
    given = ["item-30", "new-1", "item-2", "item-30", "item-9", "new-2"]
    response = api.client.post("/v1/rank", json={"user_id": "ann", "item_ids": given})
    assert response.status_code == 200
    items = response.json()["items"]
    assert [item["item_id"] for item in items[:3]] == ["item-2", "item-9", "item-30"]
    assert [item["known"] for item in items] == [True, True, True, False, False]
    assert [item["item_id"] for item in items[3:]] == ["new-1", "new-2"]
    assert items[0]["score"] > items[1]["score"] > items[2]["score"]
    assert "score" not in items[3]
    only_new = api.client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["new-1"]})
    assert [item["known"] for item in only_new.json()["items"]] == [False]


def test_similar_items(api: MemoryApi) -> None:
    response = api.client.get("/v1/items/item-5/similar", params={"k": 4})
    assert response.status_code == 200
    items = response.json()["items"]
    assert len(items) == 4
    assert "item-5" not in [item["item_id"] for item in items]
    assert [item["score"] for item in items] == sorted(
        (item["score"] for item in items), reverse=True
    )


def test_user_page_says_what_is_known(api: MemoryApi) -> None:
    empty = api.client.get("/v1/users/ann").json()
    assert empty["known"] is False
    assert empty["features"]["history"] == []
    api.client.post("/v1/events", json=[click("ann", "item-7", "e1"), click("ann", "item-8", "e2")])
    known = api.client.get("/v1/users/ann").json()
    assert known["known"] is True
    assert {entry["item_id"] for entry in known["features"]["history"]} == {"item-7", "item-8"}


def test_user_page_shows_the_attributes_of_the_latest_user_event(api: MemoryApi) -> None:
    nobody = api.client.get("/v1/users/ann").json()
    assert nobody["known"] is False
    assert nobody["profile"] == {"status": "missing"}
    at_ms = now_ms() - 5_000
    event = {
        "kind": "user",
        "event_id": "u1",
        "event_time_ms": at_ms,
        "user_id": "ann",
        "attributes": {"vip": True, "country": "FR"},
    }
    assert api.client.post("/v1/events", json=event).status_code == 202
    profile = api.client.get("/v1/users/ann").json()["profile"]
    assert profile["status"] == "present"
    assert profile["tokens"] == ["country=FR", "vip=true"]
    assert profile["event_time_ms"] == at_ms
    assert 5_000 <= profile["age_ms"] < 60_000


def test_features_of_another_layout_serve_popular_items_and_say_so(api: MemoryApi) -> None:
    api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
    assert api.client.get("/readyz").json()["checks"]["features"]["ok"] is True
    api.users.layout = "another"
    ready = api.client.get("/readyz")  # looks now
    assert ready.status_code == 200, "popular items are served"
    check = ready.json()["checks"]["features"]
    assert check["ok"] is False
    assert "wanted layout toy, found another; run `recsys train`" in check["detail"]

    checks, reads = api.users.num_checks, api.users.num_reads
    answer = recommend(api, user_id="ann", k=2, exclude_item_ids=["item-1"])
    assert answer["rung"] == "popular"
    assert ids(answer) == ["item-2", "item-3"]
    wanted = "stage features failed: the store holds features of another layout than the bundle's"
    assert answer["degraded"] == f"recommend: {wanted}"
    ranked = api.client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["item-9"]}).json()
    assert (ranked["rung"], ranked["degraded"]) == ("popular", f"rank: {wanted}")
    page = api.client.get("/v1/users/ann")
    assert page.status_code == 503
    assert "found another" in page.json()["error"]["message"]
    assert (api.users.num_checks, api.users.num_reads) == (checks, reads), "not for each request"
    text = api.client.get("/metrics").text
    assert 'recsys_stage_failures_total{reason="layout",stage="features"}' in text

    api.users.layout = "toy"
    assert api.client.get("/readyz").json()["checks"]["features"]["ok"] is True
    assert recommend(api, user_id="ann")["rung"] == "full"


def test_good_events_of_a_batch_are_kept_and_bad_ones_named(api: MemoryApi) -> None:
    batch = [
        click("ann", "item-7", "e1"),
        click("ann", "", "e2"),
        click("ann", "item-8", "e1"),
        click("ann", "item-9", "e3", colour="red"),
    ]
    response = api.client.post("/v1/events", json={"events": batch})
    assert response.status_code == 202
    body = response.json()
    assert (body["accepted"], body["refused"]) == (1, 3)
    assert [(r["index"], r["field"], r["code"]) for r in body["refusals"]] == [
        (1, "events[1].item_id", "schema"),
        (2, "events[2].event_id", "duplicate"),
        (3, "events[3].colour", "schema"),
    ]


def test_exposures_hold_request_answer_and_features(api: MemoryApi) -> None:
    api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
    answer = recommend(api, user_id="ann", k=3, context={"page": "home"})
    (exposure,) = api.exposures()
    assert exposure.request_id == answer["request_id"]
    assert exposure.item_ids == ids(answer)
    assert exposure.scores == [item["score"] for item in answer["items"]]
    assert (exposure.bundle, exposure.rung, exposure.policy) == ("toy", "full", "greedy")
    assert b'"page"' in bytes(exposure.request)
    history = exposure.features["history_index"].array()
    assert history.dtype == np.int32
    assert history[0, -1] == 7


class BrokenModel:
    """A model server that is gone, or never answers."""

    def __init__(self, *, late: bool) -> None:
        self._late = late

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        if self._late:
            await asyncio.sleep(60)
        raise StageError("recommend: gone", stage="recommend")

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise StageError("rank: gone", stage="rank")

    async def similar(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise DeadlineExceededError("similar: late", stage="similar")

    async def is_ready(self) -> bool:
        return False


@pytest.mark.parametrize("late", [False, True], ids=["gone", "late"])
def test_without_the_model_the_popular_rung_serves_and_still_filters(late: bool) -> None:
    with memory_api(bundle=toy_bundle(withdrawn=1), model=BrokenModel(late=late)) as api:
        api.client.post("/v1/events", json=click("ann", "item-1", "e1"))
        answer = recommend(api, user_id="ann", k=3, exclude_item_ids=["item-2"])
        assert answer["rung"] == "popular"
        assert answer["degraded"] == f"recommend: stage recommend {'late' if late else 'failed'}"
        assert ids(answer) == ["item-3", "item-4", "item-5"]
        assert "item-40" not in ids(recommend(api, user_id="ann", k=40)) if not late else True


def test_without_the_model_rank_falls_back_and_similar_says_so() -> None:
    with memory_api(model=BrokenModel(late=False)) as api:
        given = {"user_id": "ann", "item_ids": ["item-9", "item-2"]}
        ranked = api.client.post("/v1/rank", json=given).json()
        assert ranked["rung"] == "popular"
        assert [item["item_id"] for item in ranked["items"]] == ["item-2", "item-9"]
        similar = api.client.get("/v1/items/item-5/similar")
        assert similar.status_code == 504
        assert similar.json()["error"]["code"] == "late"
        assert "retry-after" in similar.headers
        ready = api.client.get("/readyz")
        assert ready.status_code == 200, "lower rungs serve"
        assert ready.json()["checks"]["bundle"]["ok"] is False


def test_parts_that_are_away_or_hang_are_said_and_leave_the_process_in_service() -> None:
    async def away() -> str:
        raise ServerError("Kafka at nobody:9092 does not answer")

    async def hangs() -> str:
        await asyncio.sleep(60)
        return "never"

    with memory_api(probes={"kafka": away, "redis": hangs}) as api:
        ready = api.client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        checks = ready.json()["checks"]
        assert {name: check["ok"] for name, check in checks.items()} == {
            "kafka": False, "redis": False, "bundle": True, "features": True,
        }  # fmt: skip
        assert "nobody:9092" in checks["kafka"]["detail"]
        assert "no answer within" in checks["redis"]["detail"]


def test_a_process_that_cannot_read_its_bundle_is_not_in_service() -> None:
    with memory_api(live=False) as api:
        assert api.client.get("/readyz").status_code == 200, "nothing is published: events are"
        api.bundles.trouble = "bundle x is damaged"
        ready = api.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["bundle"]["detail"] == "bundle x is damaged"


def test_without_features_the_popular_rung_serves(api: MemoryApi) -> None:
    api.users.failure = OSError("connection refused")
    answer = recommend(api, user_id="ann", k=2)
    assert answer["rung"] == "popular"
    assert ids(answer) == ["item-1", "item-2"]
    assert api.client.get("/v1/users/ann").status_code == 503


def test_before_the_first_publish_only_events_and_health_answer() -> None:
    with memory_api(live=False) as api:
        for response in (
            api.client.post("/v1/recommendations", json={"user_id": "ann"}),
            api.client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["a"]}),
            api.client.get("/v1/items/a/similar"),
            api.client.get("/v1/users/ann"),
        ):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "no_bundle"
            assert "recsys publish" in response.json()["error"]["message"]
        assert api.client.get("/healthz").json()["status"] == "ok"
        assert api.client.get("/readyz").json()["bundle"] is None
        assert api.client.post("/v1/events", json=click("ann", "a", "e1")).status_code == 202


def test_metrics_count_requests_and_rungs(api: MemoryApi) -> None:
    recommend(api, user_id="ann")
    text = api.client.get("/metrics").text
    assert 'recsys_requests_total{route="recommend",status="200"}' in text
    assert 'recsys_served_by_rung_total{rung="full"}' in text


def test_documentation_page_is_served(api: MemoryApi) -> None:
    assert "swagger" in api.client.get("/docs").text.lower()


def test_items_seen_long_ago_stay_out_too(api: MemoryApi) -> None:
    # The toy bundle sends the model 8 items of history; the user has acted on 20.
    seen = [f"item-{row}" for row in range(1, 21)]
    batch = [
        click("ann", item, f"e{place}", event_time_ms=now_ms() - 1000 * (20 - place))
        for place, item in enumerate(seen)
    ]
    api.client.post("/v1/events", json=batch)
    answer = recommend(api, user_id="ann", k=40)
    assert not set(ids(answer)) & set(seen)
    assert len(ids(answer)) == 20


def test_a_failure_of_ours_is_answered_and_logged(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.users.failure = ZeroDivisionError("a bug")
    for method, path, body in (
        ("POST", "/v1/recommendations", {"user_id": "ann"}),
        ("GET", "/v1/users/ann", None),
    ):
        response = api.client.request(method, path, json=body)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
    assert "a bug" in caplog.text
    assert 'recsys_requests_total{route="recommend",status="500"}' in (
        api.client.get("/metrics").text
    )


def test_what_a_bundle_looks_at_of_the_request_goes_to_the_model_and_into_the_exposure() -> None:
    bundle = toy_bundle()
    bundle = replace(bundle, encoding=replace(bundle.encoding, request_keys=("tab", "page")))
    with memory_api(bundle=bundle) as api:
        recommend(api, user_id="ann", k=3, context={"tab": "home", "device": "phone"})
        body = {"user_id": "ann", "item_ids": ["i1"], "context": {"page": "cart"}}
        assert api.client.post("/v1/rank", json=body).status_code == 200
        first, second = api.exposures()
    assert first.features["request_tokens"].array().tolist() == [[token_hash("tab=home"), 0]]
    assert second.features["request_tokens"].array().tolist() == [[0, token_hash("page=cart")]]


def test_a_request_is_answered_by_the_bundle_it_is_assigned_and_by_no_other() -> None:
    with memory_api(bundle=toy_bundle("a"), beside=toy_bundle("b")) as api:
        assert recommend(api, user_id="ann")["bundle"] == "a"
        for name in ("a", "b"):
            assert recommend(api, user_id="ann", bundle=name)["bundle"] == name
        body = {"user_id": "ann", "item_ids": ["item-1"], "bundle": "b"}
        assert api.client.post("/v1/rank", json=body).json()["bundle"] == "b"
        refused = api.client.post("/v1/recommendations", json={"user_id": "ann", "bundle": "c"})
        assert refused.status_code == 404
        error = refused.json()["error"]
        assert (error["code"], error["field"]) == ("not_found", "bundle")
        assert "found 'c'" in error["message"]
        assert [exposure.bundle for exposure in api.exposures()] == ["a", "a", "b", "b"]
