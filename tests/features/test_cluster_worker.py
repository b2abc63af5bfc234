"""The worker process over a real Redis Cluster: killed between its nodes, begun from nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from recsys.clock import DAY_MS, HOUR_MS, now_ms
from recsys.events.schema import ItemEvent
from recsys.features.layout import project_of_key
from recsys.settings import Settings
from serving.embedded.launch import Launch
from tests.features.redis.redis_servers import urls
from tests.features.test_stream_worker import World, num_logged, wait_told
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

    # One server, and a run that nobody disturbs.
    alone = World(world.settings, str(world.endpoints.kafka_bootstrap_servers), redis_url)
    try:
        alone.start_worker()
        wait_told(alone, len(events))
        assert features(alone) == killed
    finally:
        alone.close()
    writer.close()
