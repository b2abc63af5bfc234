"""A feature is added while events keep coming: computed from the log, then continued exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from recsys.clock import DAY_MS, HOUR_MS, now_ms
from recsys.errors import ConfigurationError
from recsys.events.codec import decode
from recsys.events.kafka import connect_reader
from recsys.events.log import Record
from recsys.events.schema import Event, ItemEvent
from recsys.features import names, versions_cli
from recsys.features.aggregation import Aggregate
from recsys.features.backfill import views_folder
from recsys.features.entities import streamed_views
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.online import OnlineReader
from recsys.features.plan import PLAN_FILE, Plan
from recsys.features.plan_history import PlanHistory
from recsys.features.progress import progress_key
from recsys.features.stream import FeatureStream
from recsys.settings import Settings
from tests.features.test_stream_worker import World, num_logged, wait_for
from tests.features.worlds import aggregate_view, random_events, small_plan


def wider(plan: Plan) -> Plan:
    """Add a window to each view of aggregates, and a view of its own key."""
    more = Aggregate(
        name="interaction_count_new", column="interaction", function="count",
        window_ms=6 * HOUR_MS, slide_ms=HOUR_MS // 2,
    )  # fmt: skip
    views = tuple(
        aggregate_view(view.name, view.join_keys, (*view.aggregates, more))
        if view.name in (names.USER_ACTIVITY, names.ITEM_ACTIVITY, names.USER_CATEGORY_ACTIVITY)
        else view
        for view in plan.views
    )
    trend = aggregate_view("category_trend", ("category",), (more,))
    return msgspec.structs.replace(plan, views=(*views, trend))


@pytest.fixture
def world(own_settings: Settings, kafka_bootstrap: str, redis_url: str) -> Iterator[World]:
    world = World(own_settings, kafka_bootstrap, redis_url)
    try:
        yield world
    finally:
        world.close()


def start_backfill(world: World) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RECSYS_STATE_DIR": str(world.settings.state_dir),
        "RECSYS_NAMESPACE": world.settings.namespace,
        "KAFKA_BOOTSTRAP_SERVERS": str(world.endpoints.kafka_bootstrap_servers),
        "REDIS_URL": str(world.endpoints.redis_url),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "serving.backfill", "--views", "new"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def whole_log(world: World) -> list[tuple[Record, Event]]:
    """Give all records, items first."""
    found: list[tuple[Record, Event]] = []
    for topic in (world.topics.items, world.topics.behaviour):
        reader = connect_reader(
            world.settings, world.endpoints, topics=[topic], group=f"{topic}.test"
        )
        bounds = reader.bounds(reader.assignment())
        reader.seek({at: first for at, (first, _) in bounds.items()})
        while sum(reader.lag().values()):
            for record in reader.poll(timeout_ms=500, max_records=10_000):
                event = decode(record.value)
                found.append((record, event))  # type: ignore[arg-type]
        reader.close()
    return found


def undisturbed(world: World, plan: Plan) -> dict[bytes, dict[bytes, bytes]]:
    hashes = MemoryHashes()
    stream = FeatureStream(plan, hashes, world.topics)
    hashes.write(stream.apply(whole_log(world))[0])
    return hashes.content


@pytest.mark.servers
def test_a_view_added_while_events_come_equals_one_that_was_always_there(world: World) -> None:
    rng = np.random.default_rng(21)
    events = random_events(
        rng, start_ms=now_ms() - 3 * DAY_MS, span_ms=2 * DAY_MS, num_events=4000, late_ms=HOUR_MS
    )
    old, new = world.plan, wider(world.plan)
    history = PlanHistory(world.settings.state_dir)
    history.record(old)
    writer = world.writer()
    num_items = sum(isinstance(e, ItemEvent) for e in events)
    world.send(writer, events[:num_items])
    world.send(writer, events[num_items:1500])
    worker = world.start_worker()
    world.wait_ready(worker)
    wait_for(lambda: world.told() == 1500, 60)
    worker.send_signal(signal.SIGUSR1)
    wait_for(lambda: num_logged(world) == 1500, 60)

    new.dump(world.settings.state_dir / PLAN_FILE)
    history.record(new)

    def send_on() -> None:
        for k in range(1500, len(events), 50):
            world.send(writer, events[k : k + 50])
            time.sleep(0.08)

    sender = threading.Thread(target=send_on)
    sender.start()
    killed = start_backfill(world)
    folder = views_folder(world.settings.state_dir)
    wait_for(lambda: any(folder.glob("done-*")) or killed.poll() is not None, 60)
    assert killed.poll() is None
    killed.kill()
    killed.communicate()
    worker.kill()
    worker.wait()
    worker = world.start_worker()
    world.wait_ready(worker)
    backfill = start_backfill(world)
    said = backfill.communicate(timeout=60)[1].decode()
    assert backfill.returncode == 0, said
    assert not folder.exists()
    worker.kill()  # as it takes the new views over
    worker.wait()
    worker = world.start_worker()
    world.wait_ready(worker)
    sender.join()
    writer.close()

    def is_done() -> bool:
        fields = world.redis.hgetall(progress_key(world.settings.namespace))
        assert worker.poll() is None, world.said()
        return not any(b"@" in k for k in fields) and world.told() == len(events)  # type: ignore[union-attr]

    wait_for(is_done, 60)
    url = str(world.endpoints.redis_url)
    stored = world.content()
    assert_held(undisturbed(world, new), stored, None)
    old_states = {view.state_field for view in streamed_views(old)}
    assert_held(undisturbed(world, old), stored, old_states)
    versions = {
        line.split()[0]: line.split()[2] for line in versions_cli.table(world.settings, url)
    }
    assert versions["user_activity@1"] == versions["user_activity@2"] == "live"
    with pytest.raises(ConfigurationError, match="feature_repo declares"):
        versions_cli.retire(world.settings, url, "user_activity@2")
    for plan in (old, new):  # both can be read
        reader = OnlineReader(plan, url)
        reader.check_layout(world.settings.namespace)
        reader.close()
    gone = old.view(names.USER_ACTIVITY).state_field
    assert versions_cli.retire(world.settings, url, "user_activity@1") == 5
    drawn = random_events(rng, start_ms=now_ms() - DAY_MS, span_ms=HOUR_MS, num_events=50)
    more = [msgspec.structs.replace(e, event_id=f"more-{e.event_id}") for e in drawn[num_items:]]
    with_more = world.writer()
    world.send(with_more, more)
    with_more.close()
    wait_for(lambda: world.told() == len(events) + len(more), 60)
    stored = world.content()
    assert not any(gone in fields for fields in stored.values())
    assert_held(undisturbed(world, new), stored, None)
    assert_held(undisturbed(world, old), stored, old_states - {gone})
    versions = {
        line.split()[0]: line.split()[2] for line in versions_cli.table(world.settings, url)
    }
    assert versions["user_activity@1"] == "retired"


def shown(world: World, url: str) -> dict[str, str]:
    """Give the first word of each version's state."""
    lines = versions_cli.table(world.settings, url)
    return {line.split()[0]: line.split()[2] for line in lines}


def assert_held(
    wanted: dict[bytes, dict[bytes, bytes]],
    stored: dict[bytes, dict[bytes, bytes]],
    only: set[bytes] | None,
) -> None:
    assert wanted
    for key, fields in wanted.items():
        for name, value in fields.items():
            if name != VERSION_FIELD and (only is None or name in only):
                assert stored.get(key, {}).get(name) == value, (key, name)


def test_versions_count_declarations_and_find_old_ones_again(tmp_path: Path) -> None:
    old = small_plan()
    new = wider(old)
    history = PlanHistory(tmp_path)
    for plan in (old, new, old):
        history.record(plan)
        plan.dump(tmp_path / PLAN_FILE)
    labels = {one.label: one.plans for one in history.versions("test")}
    assert labels["user_activity@1"] == (old.schema_hash,)
    assert labels["user_activity@2"] == (new.schema_hash,)
    assert labels["user_history@1"] == (old.schema_hash, new.schema_hash)
    assert labels["category_trend@1"] == (new.schema_hash,)
    assert history.plans("test")[-1] == old
    with pytest.raises(ConfigurationError, match="user_activity@1, user_activity@2"):
        history.version("test", "user_activity@3")
    state = history.version("test", "user_activity@2").view.state_name
    history.set_retired([state, old.view("user_activity").state_name])
    kept = {v.state_name for plan in history.kept("test") for v in plan.views}
    assert state not in kept
    assert old.view("user_activity").state_name in kept  # declared again
