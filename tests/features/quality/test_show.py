"""What `recsys features show` prints, on a real Redis and a real event log."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import redis as redis_py

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.schema import FeedbackEvent, ImpressionEvent, InteractionEvent, UserEvent
from recsys.features import show
from recsys.features.aggregation import Aggregate
from recsys.features.current_plan import default_repository, definitions_hash
from recsys.features.hashes import MemoryHashes
from recsys.features.names import identity_hash
from recsys.features.plan import PLAN_FILE, Plan
from recsys.features.stream import FeatureStream
from tests.features.quality.test_check import END, world, write_log
from tests.features.worlds import TOPICS, aggregate_view, small_plan

pytestmark = pytest.mark.servers


def plan() -> Plan:
    """Give the small plan and one view of users more, with a list."""
    listed = Aggregate(
        name="last_items", column="interaction.item_id", function="last_n(3)", window_ms=DAY_MS,
        slide_ms=HOUR_MS,
    )  # fmt: skip
    views = (*small_plan().views, aggregate_view("user_more", ("user_id",), (listed,)))
    return msgspec.structs.replace(small_plan(), views=views)


def test_views_declared_beside_the_usual_ones_are_shown(
    store: redis_py.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    show.main(["user", "u1", "--at", str(END), "--json"])
    views = {view["name"]: view for view in json.loads(capsys.readouterr().out)["views"]}
    mine = [e for _, e in world() if isinstance(e, InteractionEvent) and e.user_id == "u1"]
    mine.sort(key=lambda e: e.event_time_ms)
    wanted = [identity_hash(e.item_id) for e in mine[-3:]]
    assert views["user_more"]["values"]["last_items"] == wanted
    assert views["user_more"]["status"] == "present" and views["user_more"]["told"]


@pytest.fixture
def store(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis_py.Redis:
    """Give a store and an event log of the small world, as the settings name them."""
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RECSYS_NAMESPACE", "test")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    write_log(tmp_path / "event_log")
    here = definitions_hash(default_repository())
    msgspec.structs.replace(plan(), definitions_hash=here).dump(tmp_path / PLAN_FILE)
    client = redis_py.Redis.from_url(redis_url)
    client.flushdb()
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan(), hashes, TOPICS).apply(world())[0])
    for key, fields in hashes.content.items():
        client.hset(key, mapping=fields)
    return client


@pytest.mark.parametrize("entity", [("user", "u1"), ("item", "i1")])
def test_store_and_log_agree_and_events_are_named(
    store: redis_py.Redis, entity: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main([*entity, "--at", str(END), "--json", "--events", "5"]) == 0
    document = json.loads(capsys.readouterr().out)
    views = {view["name"]: view for view in document["views"]}
    activity = views[f"{entity[0]}_activity"]
    assert activity["status"] == "present" and any(activity["values"].values())
    assert not any(view["recomputed"] for view in views.values())
    times = [event["effective_time_ms"] for event in document["events"]]
    assert len(times) == 5 and times == sorted(times, reverse=True)
    assert show.main([*entity, "--at", str(END)]) == 0
    shown = capsys.readouterr().out
    assert f"{entity[0]}_activity: PRESENT" in shown and "test.behaviour[" in shown


def test_positions_and_the_events_behind_each_value(
    store: redis_py.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main(["user", "u1", "--at", str(END), "--json"]) == 0
    views = {view["name"]: view for view in json.loads(capsys.readouterr().out)["views"]}
    mine = [(r, e) for r, e in world() if getattr(e, "user_id", None) == "u1"]
    by_kind = {
        "user_profile": UserEvent,
        "user_history": InteractionEvent,
        "user_activity": (InteractionEvent, ImpressionEvent, FeedbackEvent),
    }
    for name, kinds in by_kind.items():
        last = max(r for r, e in mine if isinstance(e, kinds))
        assert views[name]["told"] == {f"{last.topic}[{last.partition}]": last.offset}
    activity = views["user_activity"]
    name = "interaction__purchase_count_86400000_3600000"
    start = END // HOUR_MS * HOUR_MS - DAY_MS + HOUR_MS
    bought = [
        (r, e) for r, e in mine
        if isinstance(e, InteractionEvent) and e.type == "purchase" and e.event_time_ms >= start
    ]  # fmt: skip
    newest, event = max(bought, key=lambda one: one[1].event_time_ms)
    assert activity["values"][name] == len(bought) > 0
    assert activity["made_of"][name] == {
        "num_events": len(bought), "newest_ms": event.event_time_ms, "topic": newest.topic,
        "partition": newest.partition, "offset": newest.offset,
    }  # fmt: skip
    empty = [n for n, v in activity["values"].items() if "_count_3000_" in n and not v]
    assert empty and not set(empty) & set(activity["made_of"])


def test_a_person_can_read_it(store: redis_py.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["user", "u1", "--at", str(END)]) == 0
    shown = capsys.readouterr().out
    assert "told up to test.behaviour[" in shown and ".0 " not in shown
    assert "… " in shown and "more (--full)" in shown and "4 items" in shown
    assert show.main(["user", "u1", "--at", str(END), "--full"]) == 0
    assert "--full" not in capsys.readouterr().out
    assert show.main(["item", "i1", "--at", str(END)]) == 0
    assert "available   yes" in capsys.readouterr().out


def test_a_store_that_lost_something_differs_from_the_log(
    store: redis_py.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.flushdb()
    assert show.main(["user", "u1", "--at", str(END)]) == 1
    shown = capsys.readouterr()
    assert "MISSING" in shown.out and "the event log says" in shown.out
    assert 'wanted features of user "u1"' in shown.err


def test_one_category_only(store: redis_py.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    show.main(["user", "u1", "--at", str(END), "--category", "tea", "--json"])
    views = [view["name"] for view in json.loads(capsys.readouterr().out)["views"]]
    assert [v for v in views if "/" in v] == ["user_category_activity/tea"]


def test_an_unknown_user_and_a_store_that_is_away_are_said(
    store: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main(["user", "nobody", "--at", str(END)]) == 1
    assert 'wanted features of user "nobody"' in capsys.readouterr().err
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert show.main(["user", "u1", "--at", str(END)]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
