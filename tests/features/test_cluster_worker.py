"""The worker process over a real Redis Cluster: killed between its nodes, begun from nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from rich.console import Console

from recsys.clock import DAY_MS, HOUR_MS, now_ms
from recsys.erasure import cli as erasure_cli
from recsys.events.schema import ItemEvent
from recsys.features import lag_cli
from recsys.features.key_layout import is_keyed_by_user, project_of_key
from recsys.features.redis.commands import slot_of
from recsys.settings import Settings
from serving import backfill
from serving.embedded.launch import Launch
from tests.erasure.test_forget import click, of_user
from tests.features.redis.redis_servers import (
    Starter,
    port_of,
    server_pid,
    start_cluster,
    urls,
)
from tests.features.test_stream_worker import World, num_logged, wait_for, wait_told
from tests.features.worlds import random_events

pytestmark = pytest.mark.servers


@pytest.fixture
def world(
    own_settings: Settings, kafka_bootstrap: str, cluster_launches: list[Launch]
) -> Iterator[World]:
    world = World(own_settings, kafka_bootstrap, urls(cluster_launches))
    try:
        yield world
    finally:
        world.close()


def features(world: World) -> dict[bytes, dict[bytes, bytes]]:
    content = world.content()
    return {k: v for k, v in content.items() if project_of_key(k) == world.settings.namespace}


def undisturbed(world: World, redis_url: str, num_events: int) -> dict[bytes, dict[bytes, bytes]]:
    """Give the features of the same log from one server, in a run that nobody disturbs."""
    alone = World(world.settings, str(world.endpoints.kafka_bootstrap_servers), redis_url)
    try:
        alone.start_worker()
        wait_told(alone, num_events)
        return features(alone)
    finally:
        alone.close()


def test_killed_between_nodes_and_begun_from_nothing_it_leaves_the_same_bytes(
    world: World, redis_url: str
) -> None:
    rng = np.random.default_rng(13)
    start_ms = now_ms() - 3 * DAY_MS
    events = random_events(
        rng, start_ms=start_ms, span_ms=2 * DAY_MS, num_events=2000, late_ms=HOUR_MS
    )
    writer = world.writer()
    num_items = sum(isinstance(event, ItemEvent) for event in events)
    parts = np.array_split(np.arange(num_items, len(events)), 4)
    world.send(writer, events[:num_items])
    for nth, part in zip((2, 4, 8), parts, strict=False):
        # When two of three nodes were written to, or one copy of the progress raised.
        worker = world.start_worker(command=["tests.features.node_killed_worker", str(nth)])
        world.send(writer, [events[k] for k in part])
        assert worker.wait(60) == -9
    worker = world.start_worker()
    world.send(writer, [events[k] for k in parts[-1]])
    wait_told(world, len(events))
    killed = features(world)
    copies = [world.redis.hgetall(k) for k in world.redis.scan_iter(match="*:progress:{*")]
    assert len(copies) == 2
    worker.terminate()
    assert worker.wait(20) == 0
    assert num_logged(world) == len(events)

    world.redis.flushdb()
    worker = world.start_worker()
    wait_told(world, len(events))
    assert "computed from the event log" in world.said()
    assert features(world) == killed
    worker.terminate()
    assert worker.wait(20) == 0

    assert undisturbed(world, redis_url, len(events)) == killed
    writer.close()


def test_a_fail_over_that_loses_writes_leaves_the_same_bytes(
    own_settings: Settings,
    kafka_bootstrap: str,
    redis_url: str,
    own_server: Starter,
    tmp_path: Path,
) -> None:
    keepers: list[subprocess.Popen[bytes]] = []

    def start(launch: Launch) -> subprocess.Popen[bytes]:
        keepers.append(own_server(launch))
        return keepers[-1]

    launches = start_cluster(start, tmp_path, replicas=1)
    world = World(own_settings, kafka_bootstrap, urls(launches))
    alone = World(own_settings, kafka_bootstrap, redis_url)
    rng = np.random.default_rng(17)
    events = random_events(rng, start_ms=now_ms() - 3 * DAY_MS, span_ms=2 * DAY_MS, num_events=900)
    quarter = len(events) // 4
    try:
        worker = world.start_worker()
        writer = world.writer()
        world.send(writer, events[:quarter])
        wait_told(world, quarter)
        replica = server_pid(keepers[3])
        with redis.Redis(port=port_of(launches[0])) as node:
            assert node.wait(1, 5_000) == 1
            os.kill(replica, signal.SIGSTOP)
            node.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        world.send(writer, events[quarter : 2 * quarter])
        wait_told(world, 2 * quarter)
        whole = features(world)
        server = server_pid(keepers[0])
        keepers[0].kill()
        os.kill(server, signal.SIGKILL)
        os.kill(replica, signal.SIGCONT)
        world.send(writer, events[2 * quarter :])

        def is_again() -> bool:
            try:
                return world.told() == len(events)
            except redis.RedisError:
                return False

        wait_for(is_again, 60)
        assert worker.poll() is None
        said = world.said()
        assert "state forgotten" in said and "run broken" not in said
        after = features(world)
        assert len(after) >= len(whole)
        worker.terminate()
        assert worker.wait(20) == 0
        alone.start_worker()
        wait_told(alone, len(events))
        assert features(alone) == after
        writer.close()
    finally:
        alone.close()
        world.close()


def test_commands_work_on_a_cluster(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "RECSYS_STATE_DIR": str(world.settings.state_dir),
        "RECSYS_NAMESPACE": world.settings.namespace,
        "KAFKA_BOOTSTRAP_SERVERS": str(world.endpoints.kafka_bootstrap_servers),
        "REDIS_URL": str(world.endpoints.redis_url),
        "RECSYS_PARTITIONS": str(world.settings.num_partitions),
    }.items():
        monkeypatch.setenv(name, value)
    worker = world.start_worker()
    world.wait_ready(worker)
    writer = world.writer()
    clicks = [click(n, user) for n in range(10) for user in ("ada", "bob")]
    world.send(writer, [*clicks])
    writer.close()
    wait_told(world, len(clicks))
    assert lag_cli.main([]) == 0
    assert "0" in capsys.readouterr().out
    assert erasure_cli.main(["--user", "ada", "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["complete"], proof
    assert proof["places"][0]["num_removed"] == 1, "the user's own hash"
    assert of_user(world, "ada") == {}
    assert of_user(world, "bob")
    before = features(world)
    for key in before:
        world.redis.delete(key)
    backfill.run(world.settings, world.endpoints, world.plan, Console(quiet=True))
    wait_told(world, len(clicks) + 1)
    after = features(world)
    ofs = [{k: v for k, v in one.items() if is_keyed_by_user(k)} for one in (before, after)]
    assert ofs[0] == ofs[1]
    assert worker.poll() is None


def test_slots_dealt_out_anew_under_a_worker_have_all_computed_anew(
    world: World, cluster_launches: list[Launch], redis_url: str
) -> None:
    rng = np.random.default_rng(19)
    events = random_events(rng, start_ms=now_ms() - 3 * DAY_MS, span_ms=2 * DAY_MS, num_events=600)
    worker = world.start_worker()
    world.wait_ready(worker)
    writer = world.writer()
    world.send(writer, events[:300])
    wait_told(world, 300)
    worker.send_signal(signal.SIGUSR1)
    wait_for(lambda: num_logged(world) == 300, 60)
    taken = {slot_of(key) for key in world.redis.scan_iter()}
    slot = next(slot for slot in range(6000, 10_000) if slot not in taken)
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(redis.Redis(port=port_of(launch))) for launch in cluster_launches
        ]

        def give(to: int) -> None:
            name = nodes[to].execute_command("CLUSTER", "MYID")
            for node in (nodes[to], nodes[1 - to], nodes[2]):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)

        give(0)
        try:
            # Who runs need not notice, as long as it writes nothing there; who begins does.
            other = world.start_worker(1)
            wait_for(lambda: "computed from the event log" in world.said(), 60)
            world.send(writer, events[300:])
            wait_told(world, len(events), 60)
            found = features(world)
            assert (worker.poll(), other.poll()) == (None, None)
            for one in (worker, other):
                one.terminate()
                assert one.wait(20) == 0
        finally:
            give(1)
    assert undisturbed(world, redis_url, len(events)) == found
    writer.close()
