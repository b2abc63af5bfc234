"""The fallback ladder over ASGI: which rung answers when a part is away, and what still holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle.item_neighbours import ItemNeighbours
from recsys.bundle.segments import SegmentEntry, SegmentItem, Segments
from recsys.bundle.served import ServedBundle
from recsys.bundle.static_list import read_static_list, write_static_list
from recsys.clock import now_ms
from recsys.deadline import Deadline
from recsys.errors import StageError
from recsys.features.names import token_hash
from recsys.inference.local import LocalModel
from recsys.inference.model import Arrays
from recsys.models.serving_model import Candidates, Ranked, UserContext
from recsys.ranking.operator_rules import BuryRule, OperatorRules, PinRule
from tests.inference.toy_bundle import BUNDLE_DIMENSIONS, toy_bundle
from tests.inference.toy_model import ToyModel
from tests.serving.api.memory_api import MemoryApi, memory_api


def neighbours(num_items: int = 40) -> ItemNeighbours:
    """Row i is followed by rows i + 1 and i + 2, the first more strongly."""
    rows = np.arange(num_items + 1)[:, None]
    index = np.where(rows > 0, (rows + np.array([[0, 1]])) % num_items + 1, 0).astype(np.int32)
    weight = np.where(rows > 0, np.array([[1.0, 0.5]]), 0.0).astype(np.float32)
    return ItemNeighbours(index, weight, half_life_days=30.0)


def bundle_with(**changes: object) -> ServedBundle:
    from dataclasses import replace

    return replace(toy_bundle(withdrawn=2), neighbours=neighbours(), **changes)


class RankerFails(ToyModel):
    def rank(self, user: UserContext, candidates: Candidates) -> Ranked:
        raise RuntimeError("out of memory")


class GoneModel:
    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise StageError("recommend: gone", stage="recommend")

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise StageError("rank: gone", stage="rank")

    async def similar(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise StageError("similar: gone", stage="similar")

    async def is_ready(self) -> bool:
        return False


def click(user_id: str, item_id: str, event_id: str) -> dict[str, object]:
    return {
        "kind": "interaction", "event_id": event_id, "event_time_ms": now_ms(),
        "user_id": user_id, "item_id": item_id, "type": "click",
    }  # fmt: skip


def ask(api: MemoryApi, **fields: object) -> dict[str, object]:
    response = api.client.post("/v1/recommendations", json={"user_id": "ann", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer: dict[str, object]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_ranker_that_raises_leaves_the_order_of_retrieval() -> None:
    failing = RankerFails(40, dimensions=BUNDLE_DIMENSIONS)
    whole = ToyModel(40, dimensions=BUNDLE_DIMENSIONS)
    with memory_api(bundle=bundle_with(), model=LocalModel(failing)) as api:
        api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
        answer = ask(api, k=5, explain=True)
        (exposure,) = api.exposures()
    assert (answer["rung"], answer["degraded"]) == ("retrieval", "recommend: stage rank failed")
    user = {name: torch.from_numpy(r.array().copy()) for name, r in exposure.features.items()}
    retrieved = whole.retrieve(
        user,
        num_candidates=5,
        exclude_index=torch.zeros(1, 1),
        exclude_history=torch.ones(1, 1) > 0,
    )
    assert ids(answer) == [f"item-{row}" for row in retrieved.item_index[0].tolist()]
    assert "item-7" not in ids(answer)
    assert answer["items"][0]["reasons"]["objectives"] == {}
    assert exposure.rung == "retrieval"


def test_pins_and_rules_hold_on_the_rung_retrieval() -> None:
    rules = OperatorRules(
        version="v1",
        rules=(
            PinRule(name="first", item_id="item-30", position=0),
            BuryRule(name="books", categories=["books"], factor=1000.0),
        ),
    )
    failing = RankerFails(40, dimensions=BUNDLE_DIMENSIONS)
    with memory_api(bundle=bundle_with(), model=LocalModel(failing), operator=lambda: rules) as api:
        answer = ask(api, k=5)
    assert answer["rung"] == "retrieval"
    assert ids(answer)[0] == "item-30"
    assert all(item["category"] != "books" for item in answer["items"][1:])


def test_without_the_model_neighbours_of_the_history_serve_then_popular_items() -> None:
    with memory_api(bundle=bundle_with(), model=GoneModel()) as api:
        api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
        answer = ask(api, k=5, exclude_item_ids=["item-1"], explain=True)
        ranked = api.client.post(
            "/v1/rank", json={"user_id": "ann", "item_ids": ["item-2", "item-9", "item-8"]}
        ).json()
        nobody = ask(api, user_id="nobody", k=3)
    assert (answer["rung"], answer["degraded"]) == ("similar", "recommend: stage recommend failed")
    assert ids(answer) == ["item-8", "item-9", "item-2", "item-3", "item-4"]
    assert [item["item_id"] for item in ranked["items"]] == ["item-8", "item-9", "item-2"]
    assert ranked["rung"] == "similar"
    assert (nobody["rung"], ids(nobody)) == ("popular", ["item-1", "item-2", "item-3"])


def test_neighbours_that_may_not_be_shown_do_not_make_the_rung_similar() -> None:
    with memory_api(bundle=bundle_with(), model=GoneModel()) as api:
        api.client.post("/v1/events", json=click("ann", "item-38", "e1"))  # 39, 40 are withdrawn
        answer = ask(api, k=2)
    assert (answer["rung"], ids(answer)) == ("popular", ["item-1", "item-2"])


def test_without_the_store_the_user_is_the_one_last_read_or_the_requests() -> None:
    with memory_api(bundle=bundle_with()) as api:
        api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
        assert ask(api)["rung"] == "full"
        api.users.failure = OSError("connection refused")
        cached = ask(api, k=2)
        brought = ask(api, user_id="bob", k=3, history_item_ids=["item-20", "nothing"])
        both = ask(api, k=4, history_item_ids=["item-20"])
        seen = ask(api, k=40, history_item_ids=["item-20"])
        wanted_again = ask(api, k=40, history_item_ids=["item-20"], exclude_seen=False)
        neither = ask(api, user_id="eve", k=2)
    assert (cached["rung"], ids(cached)) == ("similar", ["item-8", "item-9"])
    assert cached["degraded"] == "recommend: stage features failed; user as last read"
    assert (brought["rung"], ids(brought)) == ("similar", ["item-21", "item-22", "item-1"])
    assert brought["degraded"].endswith("; history of the request")
    assert set(ids(both)) == {"item-8", "item-9", "item-21", "item-22"}
    assert {"item-7", "item-20"}.isdisjoint(ids(seen))
    assert {"item-7", "item-20"} <= set(ids(wanted_again))
    assert neither["rung"] == "popular"


def test_popular_is_that_of_the_users_segment() -> None:
    entries = [
        SegmentEntry(token_hash("country=FR"), 900, [SegmentItem("item-30", 2.0)]),
        SegmentEntry(
            token_hash("vip=true"), 60, [SegmentItem("item-33", 2.0), SegmentItem("item-39", 1.0)]
        ),
    ]
    bundle = bundle_with()
    bundle = bundle_with(segments=Segments.of(entries, bundle.vocabulary))
    profile = {
        "kind": "user", "event_id": "u1", "event_time_ms": now_ms(), "user_id": "ann",
        "attributes": {"country": "FR", "vip": True},
    }  # fmt: skip
    with memory_api(bundle=bundle, model=GoneModel()) as api:
        api.client.post("/v1/events", json=profile)
        answer = ask(api, k=3)
        by_context = ask(api, user_id="bob", k=2, context={"country": "FR"})
        api.users.failure = OSError("away")
        by_context_alone = ask(api, user_id="bob", k=2, context={"country": "FR"})
    assert answer["rung"] == "popular"
    assert ids(answer) == ["item-33", "item-1", "item-2"], "the smaller segment; 39 is withdrawn"
    assert answer["degraded"].endswith("popular among 60 users who share a profile token")
    assert ids(by_context) == ["item-1", "item-2"], "the store was asked: it knows nothing of bob"
    assert ids(by_context_alone) == ["item-30", "item-1"]


@pytest.fixture
def static(tmp_path: Path) -> ServedBundle:
    write_static_list(tmp_path / "state" / "list.json", bundle_with())
    found = read_static_list(tmp_path / "state" / "list.json")
    assert found is not None
    return found


def test_before_a_bundle_is_taken_up_the_static_list_serves_and_filters(
    static: ServedBundle,
) -> None:
    rules = OperatorRules(
        version="v1", rules=(PinRule(name="first", item_id="item-6", position=0),)
    )
    with memory_api(live=False, static=static, operator=lambda: rules) as api:
        answer = ask(
            api, k=4, exclude_item_ids=["item-3"], filters={"categories": ["books"]},
            objective_weights={"click": 1.0}, diversity=0.5, diversity_by="embedding",
        )  # fmt: skip
        everything = ask(api, k=500, history_item_ids=["item-2"])
        bad = api.client.post(
            "/v1/recommendations", json={"user_id": "ann", "objective_weights": {"joy": 1.0}}
        )
        (exposure, _) = api.exposures()
        text = api.client.get("/metrics").text
    assert (answer["rung"], answer["bundle"]) == ("static", "toy")
    assert answer["degraded"] == "recommend: no bundle has been taken up yet"
    assert ids(answer) == ["item-6", "item-9", "item-12", "item-15"]
    assert answer["items"][0]["title"] == "Item 6"
    assert answer["items"][0]["category"] == "books"
    assert len(ids(everything)) == 37, "40 items, 2 withdrawn, 1 in the history"
    assert bad.status_code == 422
    assert exposure.rung == "static"
    assert 'recsys_served_by_rung_total{rung="static"}' in text


def test_a_static_list_keeps_tags_and_says_when_it_is_damaged(tmp_path: Path) -> None:
    from recsys.errors import BundleError

    path = tmp_path / "list.json"
    assert read_static_list(path) is None
    write_static_list(path, bundle_with())
    found = read_static_list(path)
    assert found is not None
    assert found.tags.rows("even=true").tolist() == list(range(2, 39, 2))
    before = path.stat().st_mtime_ns
    write_static_list(path, bundle_with())
    assert path.stat().st_mtime_ns == before, "the same is not written again"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BundleError, match="written anew with the next bundle"):
        read_static_list(path)
