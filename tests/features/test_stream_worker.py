"""The worker process over real Kafka and Redis: killed, doubled, fed nonsense; and its speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from rich.console import Console

from recsys.clock import DAY_MS, HOUR_MS, now_ms
from recsys.endpoints import Endpoints
from recsys.events.codec import encode
from recsys.events.event_log import verify
from recsys.events.kafka import connect_reader, connect_writer, ensure_topics
from recsys.events.log import EventWriter
from recsys.events.schema import Event, InteractionEvent, ItemEvent
from recsys.events.topics import Topics
from recsys.features.hashes import VERSION_FIELD, Write
from recsys.features.history import ItemHistory, UserHistory
from recsys.features.lease import LeasedWriter, LeaseLostError, lease_key
from recsys.features.online import OnlineReader
from recsys.features.plan import PLAN_FILE, Plan, default_repository, definitions_hash
from recsys.settings import Settings
from serving import backfill
from tests.features.worlds import assert_equal_users, random_events, small_plan, vocabulary

pytestmark = pytest.mark.servers
USERS = [*(f"u{k}" for k in range(5)), "nobody"]


class World:
    """Topics, a store and a state folder of one test."""

    def __init__(self, settings: Settings, kafka: str, redis_url: str) -> None:
        import msgspec

        self.settings = settings
        self.endpoints = Endpoints(
            kafka_bootstrap_servers=kafka, broker_profile="kafka", redis_url=redis_url
        )
        self.topics = Topics(namespace=settings.namespace)
        self.redis: redis.Redis = redis.Redis.from_url(redis_url)
        self.plan: Plan = msgspec.structs.replace(
            small_plan(settings.namespace), definitions_hash=definitions_hash(default_repository())
        )
        self.plan.dump(settings.state_dir / PLAN_FILE)
        ensure_topics(settings, self.endpoints, self.topics.all())
        self.workers: list[subprocess.Popen[bytes]] = []

    def writer(self) -> EventWriter:
        return connect_writer(self.settings, self.endpoints)

    def send(self, writer: EventWriter, events: list[Event]) -> None:
        for event in events:
            topic, key = self.topics.route(event)
            writer.append(topic, key, encode(event))
        writer.flush()

    def start_worker(self, state_dir: Path | None = None) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "RECSYS_STATE_DIR": str(state_dir or self.settings.state_dir),
            "RECSYS_NAMESPACE": self.settings.namespace,
            "KAFKA_BOOTSTRAP_SERVERS": str(self.endpoints.kafka_bootstrap_servers),
            "REDIS_URL": str(self.endpoints.redis_url),
            "RECSYS_PARTITIONS": str(self.settings.num_partitions),
        }
        self.settings.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.settings.state_dir / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "serving.stream_worker"], env=environment, stderr=log
            )
        self.workers.append(worker)
        return worker

    @property
    def ready(self) -> Path:
        return self.settings.run_dir / "stream_worker.ready"

    def wait_ready(self, worker: subprocess.Popen[bytes]) -> None:
        def is_ready() -> bool:
            assert worker.poll() is None, (self.settings.state_dir / "worker.log").read_text()
            try:
                return bool(json.loads(self.ready.read_text())["pid"] == worker.pid)
            except FileNotFoundError:
                return False

        wait_for(is_ready, 30)

    def told(self) -> int:
        """Give how many records the store has been told of."""
        found = self.redis.hgetall(f"{self.settings.namespace}:features:progress")
        return sum(int(v) for k, v in found.items() if k[:5] != b"base:" and b"/" in k)  # type: ignore[union-attr]

    def content(self) -> dict[bytes, dict[bytes, bytes]]:
        """Give all bytes of this namespace, the lease and the count of writes left out."""
        name = self.settings.namespace.encode()
        keys = sorted(k for k in self.redis.scan_iter(count=1000) if name in k)
        lease = lease_key(self.settings.namespace).encode()
        content = {key: self.redis.hgetall(key) for key in keys if key != lease}
        for fields in content.values():
            fields.pop(VERSION_FIELD, None)  # type: ignore[union-attr]
        return content  # type: ignore[return-value]

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        for key in [*self.content(), lease_key(self.settings.namespace)]:
            self.redis.delete(key)
        self.redis.close()


def wait_for(claim: Callable[[], bool], timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


def wait_told(world: World, wanted: int, timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while (told := world.told()) != wanted:
        assert time.monotonic() < end_s, f"told {told} of {wanted}"
        time.sleep(0.02)


@pytest.fixture
def world(own_settings: Settings, kafka_bootstrap: str, redis_url: str) -> Iterator[World]:
    world = World(own_settings, kafka_bootstrap, redis_url)
    try:
        yield world
    finally:
        world.close()


def test_killed_at_any_moment_leaves_the_same_bytes(world: World) -> None:
    rng = np.random.default_rng(11)
    start_ms = now_ms() - 3 * DAY_MS
    events = random_events(
        rng, start_ms=start_ms, span_ms=2 * DAY_MS, num_events=6000, late_ms=HOUR_MS
    )
    writer = world.writer()
    items = [e for e in events if isinstance(e, ItemEvent)]
    world.send(writer, items)
    behaviour = events[len(items) :]
    behaviour += [behaviour[k] for k in rng.integers(0, len(behaviour), 200)]  # sent twice
    slices = [behaviour[k : k + 100] for k in range(0, len(behaviour), 100)]
    total = len(items) + len(behaviour)

    worker = world.start_worker()
    for kill in range(5):
        world.wait_ready(worker)
        for _ in range(14):
            if slices:
                world.send(writer, slices.pop(0))
        time.sleep(float(rng.uniform(0, 0.08)))
        if kill < 4:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker = world.start_worker()
    wait_told(world, total)
    killed = world.content()
    worker.terminate()
    assert worker.wait(20) == 0
    report = verify(world.settings.event_log_dir)
    assert report.is_sound, report.problems
    assert report.num_rows == total

    # The offline reader, from the event log this worker wrote, says the same.
    reader = OnlineReader(world.plan, str(world.endpoints.redis_url))
    t = now_ms()
    online = reader.read_users(USERS, vocabulary=vocabulary(), now_ms=t)
    activity = reader.read_items(["i0", "i5", "none"], now_ms=t)
    reader.close()
    log = world.settings.event_log_dir
    offline = UserHistory(log, world.plan, vocabulary()).features_at(USERS, np.full(6, t))
    assert_equal_users(online, offline)
    assert online.activity.any()
    expected = ItemHistory(log, world.plan, vocabulary()).activity_at(["i0", "i5", "none"], t)
    np.testing.assert_array_equal(activity.activity, expected.activity)

    # A run that nobody disturbs, from an empty store.
    for key in killed:
        world.redis.delete(key)
    worker = world.start_worker()
    wait_told(world, total)
    assert world.content() == killed
    writer.close()


def test_a_click_is_servable_soon_and_nonsense_goes_to_the_dead_letters(world: World) -> None:
    worker = world.start_worker()
    world.wait_ready(worker)
    writer = world.writer()
    reader = OnlineReader(world.plan, str(world.endpoints.redis_url))
    waits_s = []
    for n in range(12):
        if n == 3:
            writer.append(world.topics.behaviour, b"u0", b'{"kind": "interaction"}')
        click = InteractionEvent(
            event_id=f"c{n}", event_time_ms=now_ms(), user_id="u0", item_id="i1", type="click"
        )
        began_s = time.monotonic()
        world.send(writer, [click])

        def counted(wanted: int = n + 1) -> bool:
            found = reader.read_users(["u0"], vocabulary=vocabulary(), now_ms=now_ms() + 1)
            return found.history_count.values.tolist() == [wanted]

        wait_for(counted, 5)
        waits_s.append(time.monotonic() - began_s)
        time.sleep(0.05)
    reader.close()
    writer.close()
    assert np.median(waits_s) < 0.25, waits_s
    letters = connect_reader(
        world.settings, world.endpoints, topics=[world.topics.dead_letters], group="letters"
    )
    (letter,) = letters.poll(timeout_ms=5000, max_records=10)
    letters.close()
    assert b"missing" in letter.value or b"wanted" in letter.value


def test_a_second_worker_stands_by_and_takes_over(world: World) -> None:
    first = world.start_worker()
    world.wait_ready(first)
    second = world.start_worker()
    writer = world.writer()
    click = InteractionEvent(
        event_id="c1", event_time_ms=now_ms(), user_id="u0", item_id="i1", type="click"
    )
    world.send(writer, [click])
    wait_told(world, 1)
    assert json.loads(world.ready.read_text())["pid"] == first.pid
    first.terminate()
    assert first.wait(20) == 0
    world.wait_ready(second)
    world.send(writer, [click])  # the same event: a duplicate, whoever counts it
    wait_told(world, 2)
    writer.close()
    reader = OnlineReader(world.plan, str(world.endpoints.redis_url))
    found = reader.read_users(["u0"], vocabulary=vocabulary(), now_ms=now_ms())
    reader.close()
    assert found.history_count.values.tolist() == [1.0]


def test_a_worker_that_slept_through_a_take_over_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    def clicks(first: int, end: int) -> list[Event]:
        return [
            InteractionEvent(
                event_id=f"c{n}", event_time_ms=now_ms(), user_id="u0", item_id="i1", type="click"
            )
            for n in range(first, end)
        ]

    first = world.start_worker()
    world.wait_ready(first)
    writer = world.writer()
    world.send(writer, clicks(0, 5))
    wait_told(world, 5)
    elsewhere = tmp_path / "another machine"
    world.plan.dump(elsewhere / PLAN_FILE)
    world.start_worker(elsewhere)
    first.send_signal(signal.SIGSTOP)
    world.send(writer, clicks(5, 10))
    wait_told(world, 10)
    first.send_signal(signal.SIGCONT)
    for n in range(10, 20):
        world.send(writer, clicks(n, n + 1))
        time.sleep(0.05)
    writer.close()
    wait_told(world, 20)
    log = world.settings.state_dir / "worker.log"
    wait_for(lambda: "lease lost" in log.read_text(), 10)
    assert first.poll() is None, "it stands by"
    reader = OnlineReader(world.plan, str(world.endpoints.redis_url))
    found = reader.read_users(["u0"], vocabulary=vocabulary(), now_ms=now_ms())
    reader.close()
    assert found.history_count.values.tolist() == [20.0]


def test_a_writer_whose_lease_is_gone_writes_nothing(redis_url: str, namespace: str) -> None:
    client = redis.Redis.from_url(redis_url)
    old, new = (LeasedWriter(client, namespace, lease_ms=60_000) for _ in range(2))
    key = f"{namespace}-hash".encode()
    try:
        assert old.acquire(stop=lambda: False)
        assert old.write([Write(key, {b"f": b"1"}, 0)]) == []
        assert old.write([Write(key, {b"f": b"3"}, 0)]) == [key], "it has version 1 by now"
        client.delete(lease_key(namespace))  # as if it had slept through
        assert new.acquire(stop=lambda: False)
        with pytest.raises(LeaseLostError, match="forgets its state"):
            old.write([Write(key, {b"f": b"2"}, 1)])
        assert client.hgetall(key) == {b"f": b"1", b"~w": b"1"}
        assert not old.acquire(stop=iter([False, True]).__next__, poll_s=0.0)
        old.release()
        assert new.holder() is not None, "only its own lease can be released"
        new.release()
        assert new.holder() is None
    finally:
        client.delete(key, lease_key(namespace))
        client.close()


def test_a_backfill_while_the_worker_runs_leaves_the_same_bytes(world: World) -> None:
    rng = np.random.default_rng(12)
    events = random_events(rng, start_ms=now_ms() - 3 * DAY_MS, span_ms=2 * DAY_MS, num_events=1500)
    writer = world.writer()
    items = [e for e in events if isinstance(e, ItemEvent)]
    world.send(writer, items)
    world.send(writer, events[len(items) : 1000])
    worker = world.start_worker()
    world.wait_ready(worker)
    wait_told(world, 1000)
    worker.send_signal(signal.SIGUSR1)  # the event log holds these, not those that follow
    wait_for(lambda: num_logged(world) == 1000, 20)
    world.send(writer, events[1000:])
    writer.close()
    wait_told(world, len(events))
    content = world.content()
    for key in list(content)[::3]:  # half of the store is lost or spoiled
        if b"progress" not in key:
            world.redis.delete(key)
    backfill.run(world.settings, world.endpoints, world.plan, Console(quiet=True))
    wait_told(world, len(events))
    assert world.content() == content
    assert worker.poll() is None


def num_logged(world: World) -> int:
    return verify(world.settings.event_log_dir).num_rows
