"""The command writes a whole, readable, repeatable log, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.endpoints import Endpoints
from recsys.events.codec import decode
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import ItemEvent
from recsys.events.topics import Topics
from recsys.settings import Settings
from recsys.simulation import World, WorldConfig
from recsys.simulation.cli import LogSink, main

TINY = ["--users", "50", "--items", "60", "--days", "2"]


def test_a_file_holds_every_event_and_is_the_same_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    assert main([*TINY, "--output", str(path)]) == 0
    first = path.read_bytes()
    events = [decode(line) for line in first.splitlines()]
    assert events == list(World(WorldConfig(num_users=50, num_items=60, days=2)).events())
    summary = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert summary["events"] == len(events) == sum(summary["kinds"].values())
    assert main([*TINY, "--output", str(path)]) == 0
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_stdout_carries_nothing_but_events_and_may_be_closed_early() -> None:
    command = [sys.executable, "-m", "recsys.simulation.cli", *TINY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert isinstance(decode(process.stdout.readline()), ItemEvent)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 0
    assert "Traceback" not in errors


def test_rate_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--max-events", "100", "--rate", "200"]) == 0
    summary = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert summary["events"] == 100
    assert 0.3 < summary["took_s"] < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--users", "0"], "num_users must be more than 0, found 0"), (["--rate", "0"], "--rate")],
)
def test_a_wrong_option_is_one_clear_line(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_events_reach_their_topics_in_order() -> None:
    world = World(WorldConfig(num_users=20, num_items=60, days=2))
    topics = Topics(namespace="t")
    log = MemoryEventLog()
    log.ensure_topics(topics.all())
    sink = LogSink(log.writer(), topics)
    events = list(world.events())
    for event in events:
        sink.write(event)
    sink.close()
    for topic in (topics.items, topics.behaviour):
        reader = log.reader(topics=[topic], group="g")
        records = reader.poll(timeout_ms=0, max_records=10**6)
        expected = {e.event_id for e in events if topics.route(e)[0] == topic}
        assert {decode(record.value).event_id for record in records} == expected


@pytest.mark.servers
def test_the_command_fills_real_topics(
    broker: tuple[str, str],
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from recsys.events.kafka import ensure_topics, latest_positions

    bootstrap, profile = broker
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", bootstrap)
    monkeypatch.setenv("RECSYS_NAMESPACE", namespace)
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    if profile == "tansu":
        monkeypatch.setenv("RECSYS_BROKER", "tansu")
    settings, topics = Settings(), Topics(namespace=namespace)
    endpoints = Endpoints.model_validate(
        {"kafka_bootstrap_servers": bootstrap, "broker_profile": profile}
    )
    ensure_topics(settings, endpoints, topics.all())
    assert main([*TINY, "--to-kafka"]) == 0
    summary = json.loads(capfd.readouterr().err.splitlines()[-1])
    behaviour = latest_positions(settings, endpoints, [topics.behaviour])
    items = latest_positions(settings, endpoints, [topics.items])
    assert sum(items.values()) == summary["kinds"]["item"]
    assert sum(items.values()) + sum(behaviour.values()) == summary["events"]
