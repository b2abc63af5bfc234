"""Re-ranking through the API: rules, exploration and what is logged of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from recsys.clock import now_ms
from recsys.pipeline import PipelineConfig
from recsys.ranking.operator_rules import NO_RULES, OperatorRules, read_operator_rules
from tests.inference.toy_bundle import toy_bundle
from tests.serving.api.memory_api import MemoryApi, memory_api
from tests.serving.api.test_answers import BrokenModel, ids, recommend

RULES = read_operator_rules(
    b"""
    [exploration]
    policy = "softmax"
    temperature = 0.2
    [[rules]]
    name = "front"
    action = "pin"
    item_id = "item-30"
    position = 1
    users = ["country=FR"]
    [[rules]]
    name = "gone"
    action = "pin"
    item_id = "item-40"
    position = 0
    [[rules]]
    name = "tea"
    action = "boost"
    categories = ["tea"]
    factor = 100.0
    context = {page = "tea"}
    """,
    source="rules.toml",
)


class Operator:
    """Rules that a test may change."""

    def __init__(self) -> None:
        self.rules: OperatorRules = RULES

    def __call__(self) -> OperatorRules:
        return self.rules


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def api(operator: Operator) -> Iterator[MemoryApi]:
    with memory_api(bundle=toy_bundle(withdrawn=1), operator=operator) as running:
        yield running


def french(api: MemoryApi, user_id: str) -> None:
    event = {
        "kind": "user", "event_id": f"u-{user_id}", "event_time_ms": now_ms(),
        "user_id": user_id, "attributes": {"country": "FR"},
    }  # fmt: skip
    assert api.client.post("/v1/events", json=event).status_code == 202


def test_pins_know_their_segment_and_what_may_not_be_shown(api: MemoryApi) -> None:
    french(api, "ann")
    answer = recommend(api, user_id="ann", k=5, explore=False, explain=True)
    assert ids(answer)[1] == "item-30", "the withdrawn item 40 is pinned nowhere"
    assert "item-40" not in ids(answer)
    assert answer["items"][1]["reasons"]["rules"] == [{"rule": "front", "action": "pin"}]
    assert answer["items"][1]["reasons"]["objectives"].keys() == {"click", "purchase"}
    assert "item-30" not in ids(recommend(api, user_id="bob", k=5, explore=False))
    for out in (
        {"exclude_item_ids": ["item-30"]},
        {"filters": {"exclude_categories": ["books"]}},
        {"filters": {"categories": ["tea"]}},
    ):
        assert "item-30" not in ids(recommend(api, user_id="ann", k=5, explore=False, **out)), out
    click = {
        "kind": "interaction", "event_id": "e1", "event_time_ms": now_ms(), "user_id": "ann",
        "item_id": "item-30", "type": "click",
    }  # fmt: skip
    api.client.post("/v1/events", json=click)
    assert "item-30" not in ids(recommend(api, user_id="ann", k=5, explore=False)), "seen"
    again = recommend(api, user_id="ann", k=5, explore=False, exclude_seen=False)
    assert ids(again)[1] == "item-30"


def test_rules_go_by_context_and_change_between_requests(
    api: MemoryApi, operator: Operator
) -> None:
    def kinds(**body: Any) -> set[str]:
        answer = recommend(api, user_id="bob", k=6, explore=False, **body)
        return {item["category"] for item in answer["items"]}

    assert kinds(context={"page": "tea"}) == {"tea"}
    assert kinds() != {"tea"}
    operator.rules = NO_RULES
    assert kinds(context={"page": "tea"}) != {"tea"}


def test_draws_are_told_again_by_the_request_id_and_logged(api: MemoryApi) -> None:
    first = recommend(api, user_id="bob", k=8, request_id="r-1", explain=True)
    again = recommend(api, user_id="bob", k=8, request_id="r-1")
    assert first["request_id"] == again["request_id"] == "r-1"
    assert ids(first) == ids(again)
    others = {tuple(ids(recommend(api, user_id="bob", k=8))) for _ in range(5)}
    assert len(others) > 1
    best = recommend(api, user_id="bob", k=8, explore=False)
    pinned = recommend(
        api, user_id="bob", k=3, request_id="r-2", diversity=0.5, diversity_method="dpp",
        diversity_by="embedding", max_per_category=1, pins=[{"item_id": "item-9", "position": 2}],
    )  # fmt: skip
    exposures = {one.request_id: one for one in api.exposures()}
    drawn = exposures["r-1"]
    assert (drawn.policy, drawn.rules) == ("softmax(temperature=0.2)", RULES.version)
    assert drawn.item_ids == ids(first)
    assert drawn.propensities == [item["reasons"]["propensity"] for item in first["items"]]
    assert all(0 < chance < 1 for chance in drawn.propensities)
    greedy = exposures[best["request_id"]]
    assert (greedy.policy, greedy.propensities) == ("greedy", [])
    chances = exposures["r-2"].propensities
    assert chances[2] == 1.0
    assert 0 < chances[0] < 1
    assert ids(pinned)[2] == "item-9"
    assert len({item["category"] for item in pinned["items"]}) == 3


def test_a_degraded_answer_keeps_pins_and_draws_nothing(operator: Operator) -> None:
    operator.rules = read_operator_rules(
        b'[exploration]\npolicy = "epsilon"\nepsilon = 1.0\n'
        b'[[rules]]\nname = "p"\naction = "pin"\nitem_id = "item-30"\nposition = 1',
        source="rules.toml",
    )
    with memory_api(model=BrokenModel(late=False), operator=operator) as api:
        answer = recommend(api, user_id="bob", k=3)
        assert answer["rung"] == "popular"
        assert ids(answer) == ["item-1", "item-30", "item-2"]
        (exposure,) = api.exposures()
        assert (exposure.policy, exposure.propensities) == ("greedy", [])


def test_without_time_a_list_keeps_pins_and_bounds_and_says_what_it_lacks() -> None:
    with memory_api(config=PipelineConfig(deadline_ms=0)) as api:
        answer = recommend(
            api, user_id="bob", k=3, diversity=0.9, max_per_category=1,
            pins=[{"item_id": "item-31", "position": 0}],
        )  # fmt: skip
        late = "stage rerank late: no diversity, no exploration"
        assert answer["degraded"] == f"recommend: stage recommend late; recommend: {late}"
        assert ids(answer) == ["item-31", "item-2", "item-3"]
        assert 'stage="rerank"' in api.client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"boosts": [{"factor": 2}]}, "boosts[0]"),
        ({"boosts": [{"factor": 0, "item_ids": ["a"]}]}, "boosts[0].factor"),
        ({"pins": [{"item_id": "a", "position": -1}]}, "pins[0].position"),
        ({"least_by_category": {"tea": 11}}, "least_by_category.tea"),
        ({"diversity_method": "luck"}, "diversity_method"),
        ({"request_id": ""}, "request_id"),
    ],
)
def test_wrong_wishes_name_their_field(api: MemoryApi, body: dict[str, Any], field: str) -> None:
    response = api.client.post("/v1/recommendations", json={"user_id": "ann", **body})
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field
