"""What `recsys features show` prints, on a real Redis and a real event log."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import redis as redis_py

from recsys.features import show
from recsys.features.hashes import MemoryHashes
from recsys.features.plan import PLAN_FILE, default_repository, definitions_hash
from recsys.features.stream import FeatureStream
from tests.features.quality.test_check import END, world, write_log
from tests.features.worlds import TOPICS, small_plan

pytestmark = pytest.mark.servers


@pytest.fixture
def store(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis_py.Redis:
    """Give a store and an event log of the small world, as the settings name them."""
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RECSYS_NAMESPACE", "test")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    write_log(tmp_path / "event_log")
    here = definitions_hash(default_repository())
    msgspec.structs.replace(small_plan(), definitions_hash=here).dump(tmp_path / PLAN_FILE)
    client = redis_py.Redis.from_url(redis_url)
    client.flushdb()
    hashes = MemoryHashes()
    hashes.write(FeatureStream(small_plan(), hashes, TOPICS).apply(world())[0])
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
