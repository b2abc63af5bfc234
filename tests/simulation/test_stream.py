"""The log is the same however it is cut, and tells a story that can have happened."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.errors import ConfigurationError
from recsys.events.codec import decode, encode
from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.simulation import World, WorldConfig, ending_before


def test_same_config_gives_the_same_events(world: World, events: list[Event]) -> None:
    assert list(World(world.config).events()) == events


def test_another_seed_is_another_world_with_ids_of_its_own(
    world: World, events: list[Event]
) -> None:
    others = list(World(replace(world.config, seed=12, days=2)).events())
    assert not {event.event_id for event in others} & {event.event_id for event in events}


@settings(max_examples=8)
@given(cuts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
def test_cutting_the_stream_changes_nothing(
    world: World, events: list[Event], cuts: list[float]
) -> None:
    span = world.last_event_ms - world.first_event_ms
    at = [world.first_event_ms, *sorted(world.first_event_ms + int(c * span) for c in cuts)]
    parts = [list(world.events(a, b)) for a, b in pairwise([*at, world.last_event_ms])]
    assert [event for part in parts for event in part] == events


def test_a_cut_at_the_very_time_of_an_event_neither_loses_nor_repeats_it(
    world: World, events: list[Event]
) -> None:
    at = events[len(events) // 2].event_time_ms
    before, after = list(world.events(end_ms=at)), list(world.events(start_ms=at))
    assert before + after == events
    assert before[-1].event_time_ms < at == after[0].event_time_ms


def test_an_empty_or_outside_window_has_no_events(world: World) -> None:
    start, end = world.config.start_ms, world.last_event_ms
    assert list(world.events(start, start)) == []
    assert list(world.events(end, end + DAY_MS)) == []
    assert list(world.events(0, world.first_event_ms)) == []


def test_events_are_in_time_order_with_unique_ids(events: list[Event]) -> None:
    assert all(a.event_time_ms <= b.event_time_ms for a, b in pairwise(events))
    assert len({event.event_id for event in events}) == len(events)


def test_every_event_passes_the_border(events: list[Event]) -> None:
    for event in events:
        assert decode(encode(event), now_ms=event.event_time_ms) == event


def test_every_kind_and_type_occurs(events: list[Event]) -> None:
    assert {type(event) for event in events} == {
        ItemEvent, UserEvent, ImpressionEvent, InteractionEvent, FeedbackEvent,
    }  # fmt: skip
    types = {e.type for e in events if isinstance(e, InteractionEvent | FeedbackEvent)}
    assert types == {"click", "long_view", "add_to_cart", "purchase", "like", "not_interested"}


def test_only_known_users_see_only_items_on_offer(world: World, events: list[Event]) -> None:
    users: set[str] = set()
    on_offer: set[str] = set()
    for event in events:
        if isinstance(event, UserEvent):
            users.add(event.user_id)
        elif isinstance(event, ItemEvent):
            (on_offer.add if event.available else on_offer.remove)(event.item_id)
        elif isinstance(event, ImpressionEvent):
            assert event.user_id in users
            assert set(event.items) <= on_offer
            assert len(set(event.items)) == len(event.items)
    assert len(users) == world.config.num_users


def test_actions_follow_from_what_was_shown_and_done(events: list[Event]) -> None:
    shown: dict[str, ImpressionEvent] = {}
    done: set[tuple[str | None, str, str]] = set()
    needs = {"long_view": "click", "add_to_cart": "long_view", "purchase": "add_to_cart",
             "like": "long_view"}  # fmt: skip
    for event in events:
        if isinstance(event, ImpressionEvent):
            shown[event.request_id] = event
        elif isinstance(event, InteractionEvent | FeedbackEvent):
            assert event.request_id is not None
            assert event.position is not None
            impression = shown[event.request_id]
            assert impression.user_id == event.user_id
            assert impression.items[event.position] == event.item_id
            if event.type in needs:
                assert (event.request_id, event.item_id, needs[event.type]) in done
            done.add((event.request_id, event.item_id, event.type))


def test_nothing_lasts_longer_than_the_horizon(world: World, events: list[Event]) -> None:
    begun: dict[str, int] = {}
    for event in events:
        if isinstance(event, ImpressionEvent | InteractionEvent | FeedbackEvent):
            assert event.request_id is not None
            session = event.request_id.rsplit(".", 1)[0]
            begun.setdefault(session, event.event_time_ms)
            assert event.event_time_ms - begun[session] < world.config.horizon_ms


def test_people_come_at_their_local_hours_and_by_their_activity(world: World) -> None:
    world = World(replace(world.config, num_users=20_000, days=7, existing_user_share=1.0))
    visits = [world.sessions.visits(chunk) for chunk in range(world.sessions.num_chunks)]
    user = np.concatenate([visit.user for visit in visits])
    start = np.concatenate([visit.start_ms for visit in visits])
    expected = 20_000 * 7
    assert len(user) == pytest.approx(expected, abs=5 * expected**0.5 + 0.02 * expected)

    hours = np.bincount((start - world.config.start_ms) // HOUR_MS, minlength=7 * 24)
    country, _, _ = world.users.demographics(np.arange(20_000))
    weight = world.users.activity(np.arange(20_000))
    middle = world.config.start_ms + HOUR_MS // 2 + HOUR_MS * np.arange(7 * 24)
    rate = sum(
        weight[country == c].sum() * world.users.rhythm(np.full(len(middle), c), middle)
        for c in range(country.max() + 1)
    )
    rate = rate / 24
    # Pearson's statistic has mean 168 and standard deviation 18 when the model holds.
    assert ((hours - rate) ** 2 / rate).sum() < 168 + 6 * 18

    mine = np.bincount(user, minlength=20_000)
    assert np.corrcoef(mine, weight)[0, 1] > 0.85


def test_a_million_users_need_little_memory_and_start_anywhere() -> None:
    """In a process of its own, because memory is measured at its peak."""
    program = """
import json, sys
from recsys.simulation import World, million
world = World(million())
first = sum(1 for _ in world.events(world.first_event_ms, world.first_event_ms + 60_000))
at = world.config.start_ms + 45 * 60_000
minute = list(world.events(at, at + 60_000))
whole = [e for e in world.events(at - 60_000, at + 60_000) if e.event_time_ms >= at]
# Of this program: ``ru_maxrss`` begins at what the process that started it had.
peak_kb = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
json.dump([first, len(minute), minute == whole, peak_kb / 1024], sys.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    announced, in_a_minute, same, peak_mb = json.loads(done.stdout)
    assert announced > 2_000
    assert in_a_minute > 300
    assert same
    assert peak_mb < 1_500


def test_a_world_can_be_moved_into_the_past() -> None:
    now_ms = 1_790_000_000_123
    config = ending_before(WorldConfig(days=3), now_ms)
    assert now_ms - DAY_MS < World(config).last_event_ms <= now_ms
    assert config.start_ms % DAY_MS == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_users", 0), ("latent_dims", 12), ("life_floor", 1.5), ("candidate_mix", (1.0,)),
     ("list_length", 61), ("start_ms", 1_767_225_600), ("policy_temperature", 0.0)],
)  # fmt: skip
def test_an_impossible_world_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        replace(WorldConfig(), **{field: value})


def test_tiny_worlds_work() -> None:
    for items in (1, 3, 20):
        config = WorldConfig(num_users=5, num_items=items, num_categories=3, days=2, seed=3)
        log = list(World(config).events())
        assert {e.item_id for e in log if isinstance(e, ItemEvent)} == {
            f"i{i:06d}" for i in range(items)
        }
        for event in log:
            assert decode(encode(event)) == event
