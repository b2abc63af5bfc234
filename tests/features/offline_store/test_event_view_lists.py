"""Lists and forgotten users in views computed from the event log, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.clock import HOUR_MS
from recsys.events.log import Record, TopicPartition
from recsys.events.schema import ForgetEvent, InteractionEvent, LoggedEvent, UserEvent
from recsys.events.sink import EventSink
from recsys.features import names
from recsys.features.aggregation import Aggregate
from recsys.features.names import identity_hash
from recsys.features.offline_store.event_views import EventViews
from recsys.features.view import View
from tests.features.worlds import TOPICS, feature, in_log, small_plan

T0 = 1_700_000_000_000
LISTS = tuple(
    Aggregate(name=name, column=column, function=function, window_ms=HOUR_MS, slide_ms=1000)
    for name, column, function in (
        ("clicks", "interaction", "count"),
        ("items", "interaction.item_id", "last_n(2)"),
        ("values", "interaction", "last_n(2)"),
    )
)
VIEW = View(
    name="lists",
    join_keys=("user_id",),
    features=(
        feature("lists", "clicks", "float32"),
        feature("lists", "items", "int64_list"),
        feature("lists", "values", "float32_list"),
    ),
    ttl_ms=HOUR_MS,
    aggregates=LISTS,
)


def click(n: int, user: str, item: str) -> InteractionEvent:
    return InteractionEvent(
        event_id=f"{user}{n}", event_time_ms=T0 + n, user_id=user, item_id=item, type="click",
        value=float(n),
    )  # fmt: skip


def log_of(folder: Path, events: Sequence[LoggedEvent]) -> EventViews:
    log: list[tuple[Record, LoggedEvent]] = in_log(list(events), num_partitions=1)  # type: ignore[arg-type,assignment]
    sink = EventSink(folder, sorted({TopicPartition(r.topic, r.partition) for r, _ in log}))
    sink.write(log)
    sink.close()
    return EventViews(folder, TOPICS.namespace)


def test_lists_hold_the_newest_of_the_window_at_the_moment(tmp_path: Path) -> None:
    events = [click(0, "ada", "i1"), click(10, "ada", "i2"), click(20, "ada", "i1")]
    views = log_of(tmp_path, events)
    moments = np.array([T0 - 1, T0, T0 + 10, T0 + 20, T0 + 2 * HOUR_MS, T0 + 20])
    keys = {"user_id": ["ada"] * 5 + ["nobody"]}
    answer = views.of(VIEW).at(keys, moments)
    one, two = identity_hash("i1"), identity_hash("i2")
    assert answer.to_pydict() == {
        "clicks": [0.0, 1.0, 2.0, 3.0, 0.0, 0.0],
        "items": [[], [one], [one, two], [two, one], [], []],
        "values": [[], [0.0], [0.0, 10.0], [10.0, 20.0], [], []],
    }


def test_a_forgotten_user_is_unknown_at_every_moment(tmp_path: Path) -> None:
    events: list[LoggedEvent] = [
        UserEvent(event_id="p", event_time_ms=T0, user_id="ada", attributes={"country": "FR"}),
        UserEvent(event_id="q", event_time_ms=T0, user_id="bob", attributes={"country": "UK"}),
        click(1, "ada", "i1"),
        click(2, "bob", "i1"),
        ForgetEvent(event_id="f", event_time_ms=T0 + 3, user_id="ada"),
    ]
    views = log_of(tmp_path, events)
    keys, moments = {"user_id": ["ada", "bob"]}, np.full(2, T0 + 2)
    assert views.of(VIEW).at(keys, moments)["clicks"].to_pylist() == [0.0, 1.0]
    plan = small_plan()
    history = views.of(plan.view(names.USER_HISTORY)).at(keys, moments)
    assert history["item_ids"].to_pylist() == [[], ["i1"]]
    profile = views.of(plan.view(names.USER_PROFILE)).at(keys, moments)
    assert profile["tokens"].to_pylist() == [None, ["country=UK"]]
