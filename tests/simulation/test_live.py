"""Lists of a live system can be shown to simulated users."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.clock import HOUR_MS
from recsys.errors import InputError
from recsys.events.codec import decode, encode
from recsys.events.schema import ImpressionEvent, InteractionEvent
from recsys.simulation import SessionState, Visit, World


@pytest.fixture(scope="module")
def visits(world: World) -> list[Visit]:
    start = world.config.start_ms + 10 * HOUR_MS
    return list(world.visits(start, start + 14 * HOUR_MS))


def test_visits_are_the_sessions_of_the_log(
    world: World, visits: list[Visit], impressions: list[ImpressionEvent]
) -> None:
    first_pages = {(i.user_id, i.event_time_ms) for i in impressions if i.request_id.endswith(".0")}
    assert len(visits) > 50
    assert {(visit.user_id, visit.time_ms) for visit in visits} <= first_pages
    assert [v.time_ms for v in visits] == sorted(v.time_ms for v in visits)


def test_a_session_can_be_played_with_lists_of_ones_own(world: World, visits: list[Visit]) -> None:
    clicks = 0
    for number, visit in enumerate(visits[:40]):
        state: SessionState | None = None
        time_ms: int | None = visit.time_ms
        page = 0
        while time_ms is not None and page < 4:
            request_id = f"live-{number}-{page}"
            items = world.best_items(visit.user_id, time_ms, 8)
            response = world.respond(
                visit.user_id, items, request_id=request_id, time_ms=time_ms, state=state,
                policy="oracle", propensities=[1.0] * 8,
            )  # fmt: skip
            impression = response.events[0]
            assert isinstance(impression, ImpressionEvent)
            assert impression.items == items
            assert impression.context == visit.context
            assert impression.propensities == [1.0] * 8
            for event in response.events:
                assert decode(encode(event)) == event
            clicked = {
                e.position
                for e in response.events
                if isinstance(e, InteractionEvent) and e.type == "click"
            }
            truth = world.would_click(
                visit.user_id, items, time_ms, request_id, position=np.arange(8), state=state
            )
            assert clicked == set(np.flatnonzero(truth).tolist())
            clicks += len(clicked)
            state, time_ms, page = response.state, response.next_request_ms, page + 1
    assert clicks > 40


def test_the_same_list_gets_the_same_answer(world: World) -> None:
    ask = {"request_id": "again", "time_ms": world.config.start_ms}
    items = world.names.items(range(20))
    names = [world.names.item_id(int(i)) for i in items]
    assert world.respond(1, names, **ask).events == world.respond(1, names, **ask).events


def test_a_click_makes_similar_items_more_attractive(world: World) -> None:
    time = world.config.start_ms
    vector = world.items.vector
    anchor = 10
    alike = int(np.argsort(-(vector @ vector[anchor]))[1])
    state = SessionState(
        interest=vector[[anchor]].astype(np.float64), shown=np.empty((1, 0), dtype=np.int64)
    )
    requests = [f"r{i}" for i in range(300)]
    before = sum(world.would_click(7, [alike], time, r)[0] for r in requests)
    after = sum(world.would_click(7, [alike], time, r, state=state)[0] for r in requests)
    assert after > before


@pytest.mark.parametrize(
    ("change", "field"),
    [({"user_id": "nobody"}, "user_id"), ({"item_ids": ["i999999"]}, "item_id"),
     ({"item_ids": []}, "item_ids"), ({"item_ids": ["i000001"] * 1001}, "item_ids"),
     ({"request_id": ""}, "request_id"), ({"request_id": "x" * 101}, "request_id")],
)  # fmt: skip
def test_a_wrong_list_is_refused_by_field(
    world: World, change: dict[str, object], field: str
) -> None:
    ask = {"user_id": 1, "item_ids": ["i000001"], "request_id": "r", **change}
    with pytest.raises(InputError) as refusal:
        world.respond(**ask, time_ms=world.config.start_ms)
    assert refusal.value.field == field


def test_a_request_of_the_log_is_not_answered_twice(
    world: World, impressions: list[ImpressionEvent]
) -> None:
    with pytest.raises(InputError, match="one of the log's"):
        world.respond(1, [0], request_id=impressions[0].request_id, time_ms=world.config.start_ms)
