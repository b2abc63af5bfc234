"""Tracers through a real Kafka, worker and Redis; nobody learns from them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request

import polars as pl
import pytest

from recsys.clock import now_ms
from recsys.events.event_columns import to_frame
from recsys.events.kafka.writer import connect_writer
from recsys.events.tracers import PREFIX, is_tracer, without_tracers
from recsys.features.quality import probe_cli
from recsys.features.quality.online_sample import sample
from recsys.features.quality.probe import LANES, Probe, ProbeConfig, Trace
from recsys.features.quality.probe_cli import summary
from recsys.features.redis_hashes import RedisHashes
from tests.features.quality.test_stream_checks import free_port
from tests.features.test_stream_worker import World, world
from tests.features.worlds import in_log, random_events

__all__ = ["world"]


def as_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(world.settings.state_dir))
    monkeypatch.setenv("RECSYS_NAMESPACE", world.settings.namespace)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", str(world.endpoints.kafka_bootstrap_servers))
    monkeypatch.setenv("REDIS_URL", str(world.endpoints.redis_url))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.servers
def test_every_view_is_measured_and_a_worker_that_stands_still_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_settings(world, monkeypatch)
    worker = world.start_worker()
    world.wait_ready(worker)
    port = free_port()
    command = [
        *("--count", "3", "--pause", "0.2", "--json", "--max-p99", "60"),
        *("--metrics-port", str(port)),
    ]
    pages: list[str] = []

    def look() -> None:
        address = f"http://127.0.0.1:{port}/metrics"
        wanted = 'recsys_probe_append_to_servable_seconds_count{view="user_history"}'
        while not pages or wanted not in pages[-1]:
            try:
                pages.append(urllib.request.urlopen(address, timeout=5).read().decode())
            except OSError:
                time.sleep(0.002)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    assert probe_cli.main(command) == 0
    looking.join(timeout=1)
    assert not looking.is_alive()
    document = json.loads(capsys.readouterr().out)
    assert [v["view"] for v in document["views"]] == sorted(v.name for v in world.plan.views)
    for view in document["views"]:
        assert (view["num_sent"], view["num_lost"]) == (3, 0)
        assert 0 < view["append_s"]["p50"] <= view["append_s"]["p100"] < 10
        assert view["append_s"]["p50"] <= view["event_s"]["p100"]

    assert probe_cli.main(["--count", "1", "--max-p99", "0.0000001"]) == 1
    assert "FAIL" in capsys.readouterr().out
    found = sample(world.plan, str(world.endpoints.redis_url), now_ms())
    assert not any(len(values) for values in found.views)  # tracers are nobody

    os.kill(worker.pid, signal.SIGSTOP)
    assert probe_cli.main(["--count", "1", "--timeout", "0.5", "--json"]) == 1
    stuck = json.loads(capsys.readouterr().out)
    assert {v["num_lost"] for v in stuck["views"]} == {1}
    os.kill(worker.pid, signal.SIGCONT)


@pytest.mark.servers
def test_tracers_keep_to_few_entities(world: World) -> None:
    world.wait_ready(world.start_worker())
    writer = connect_writer(world.settings, world.endpoints)
    hashes = RedisHashes(str(world.endpoints.redis_url))
    probe = Probe(world.plan, writer, hashes, ProbeConfig(timeout_s=20))
    probe.prepare()
    for _ in range(LANES + 1):
        assert all(trace.since_append_s is not None for trace in probe.round())
        time.sleep(0.005)
    writer.close()
    hashes.close()
    keys = [k for k in world.redis.scan_iter(count=1000) if PREFIX.encode() in k]
    assert len(keys) <= LANES * len(world.plan.views) * 3


@pytest.mark.servers
def test_a_store_that_is_away_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_settings(world, monkeypatch)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert probe_cli.main(["--count", "1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        probe_cli.main(["--count", "0"])


def test_percentiles_and_losses_by_view() -> None:
    traces = [Trace("a", n / 10, n / 100) for n in range(1, 101)] + [Trace("b", None, None)]
    a, b = summary(traces)
    assert (a.append_s["p50"], a.append_s["p99"], a.append_s["p100"]) == (0.5, 0.99, 1.0)
    assert not a.is_over(0.99) and a.is_over(0.98)
    assert b.num_lost == 1 and b.append_s == {} and b.is_over(100)


def test_nobody_learns_from_tracers() -> None:
    import numpy as np

    from recsys.data.catalogue import build_catalogue
    from recsys.events.schema import InteractionEvent, ItemEvent

    events = random_events(np.random.default_rng(1), start_ms=10**12, span_ms=1000, num_events=20)
    name = f"{PREFIX}user_activity/0"
    tracers = [
        ItemEvent(event_id="t0", event_time_ms=10**12, item_id=name),
        InteractionEvent(
            event_id="t1", event_time_ms=10**12, user_id=name, item_id=name, type="probe"
        ),
    ]
    log = to_frame(in_log([*events, *tracers]))
    kept = without_tracers(log)
    assert len(kept) == len(log) - 2 and is_tracer(name)
    assert len(kept.filter(pl.col("kind") == "impression")) == len(
        log.filter(pl.col("kind") == "impression")
    )
    assert not any(is_tracer(i) for i in build_catalogue(kept).vocabulary.item_ids)
    assert any(is_tracer(i) for i in build_catalogue(log).vocabulary.item_ids)
