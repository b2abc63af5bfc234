"""Each cause of skew brought about in a live worker, store and log, and named by the command.

The worker, Kafka, Redis, the event log and the bundles are real; what is served is read with the
reader that the API uses. Exposures are audited from the topic, the Parquet log and a file.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.bundle.store import BundleStore
from recsys.clock import DAY_MS, now_ms
from recsys.data.vocabulary_file import load_vocabulary
from recsys.events.kafka import connect_reader
from recsys.events.log import TopicPartition
from recsys.events.schema import Event, InteractionEvent, ItemEvent
from recsys.events.sink import LogSink
from recsys.features.aggregation import Aggregate
from recsys.features.audit import cli
from recsys.features.batch import UserFeatures
from recsys.features.key_layout import EntityKeys
from recsys.features.lag_cli import wait_for_worker
from recsys.features.online import OnlineReader
from recsys.features.plan import PLAN_FILE, Plan
from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.feedback.exposure_log import EXPOSURES, exposure_of
from recsys.models.encode import encode_users
from tests.features.test_stream_worker import World, wait_for, wait_told, world
from tests.features.worlds import aggregate_view
from training.debug_bundle import make_debug_bundle

__all__ = ["world"]
pytestmark = pytest.mark.servers
HISTORY_TTL_MS = 1_500
IN_FLIGHT = ("--in-flight", "0.5")


def lasting_plan(plan: Plan) -> Plan:
    """Give the plan with a column that popularity is counted by, and services to be served with."""
    popular = Aggregate(
        name="interactions_30d", column="interaction", function="count", window_ms=30 * DAY_MS,
        slide_ms=DAY_MS,
    )  # fmt: skip
    views = tuple(
        aggregate_view(v.name, v.join_keys, (*v.aggregates, popular))
        if v.name == "item_activity"
        else v
        for v in plan.views
    )
    served = tuple(f"{view.name}:{name}" for view in views for name in view.feature_names)
    return msgspec.structs.replace(
        plan, views=views, services={"retrieval_v1": served, "ranking_v1": served}
    )


def with_ttl(plan: Plan, ttl_ms: int) -> Plan:
    views = tuple(
        msgspec.structs.replace(v, ttl_ms=ttl_ms) if v.name == "user_history" else v
        for v in plan.views
    )
    return msgspec.structs.replace(plan, views=views)


class Shop:
    """A shop that is served from a live store, badly on demand."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.lasting = lasting_plan(world.plan)
        self.plan = with_ttl(self.lasting, HISTORY_TTL_MS)
        self.plan.dump(world.settings.state_dir / PLAN_FILE)
        store = BundleStore(world.settings.bundle_dir)
        self.bundle = store.add(make_debug_bundle(folder / "now", plan=self.plan))
        self.older = store.add(make_debug_bundle(folder / "older", plan=self.lasting))
        path = store.path(self.bundle)
        self.vocabulary = load_vocabulary(path / VOCABULARY_FILE)
        self.encoding = read_manifest(path).encoding
        self.worker = world.start_worker()
        world.wait_ready(self.worker)
        self.writer = world.writer()
        self.num_sent = 0
        self.exposures: list[Exposure] = []

    def send(self, *events: Event, applied: bool = True) -> None:
        self.world.send(self.writer, list(events))
        self.num_sent += len(events)
        if applied:
            wait_told(self.world, self.num_sent)

    def click(self, user_id: str, *, applied: bool = True) -> None:
        n = self.num_sent
        click = InteractionEvent(
            event_id=f"c{n}", event_time_ms=now_ms(), user_id=user_id, item_id=f"item-{n % 5}",
            type="click",
        )  # fmt: skip
        self.send(click, applied=applied)

    def read(self, user_id: str, *, plan: Plan | None = None) -> UserFeatures:
        reader = OnlineReader(plan or self.plan, str(self.world.endpoints.redis_url))
        try:
            # The next millisecond, as a request after the last event would.
            time.sleep(0.002)
            return reader.read_users([user_id], vocabulary=self.vocabulary, now_ms=now_ms())
        finally:
            reader.close()

    def answer(
        self, cause: str, user_id: str, features: UserFeatures, *, bundle: str | None = None
    ) -> None:
        at_ms = int(features.as_of_ms[0])
        exposure = Exposure(
            request_id=cause, user_id=user_id, route="recommendations", now_ms=at_ms,
            bundle=bundle or self.bundle, rung="full", item_ids=[], scores=[],
            features=Exposure.tensors(encode_users(features, self.encoding)),
            features_as_of_ms=at_ms, request=msgspec.Raw(b"{}"),
        )  # fmt: skip
        self.exposures.append(exposure)
        topic = self.world.topics.exposures
        self.writer.append(topic, user_id.encode(), encode_exposure(exposure))


@pytest.fixture
def shop(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(world.settings.state_dir))
    monkeypatch.setenv("RECSYS_NAMESPACE", world.settings.namespace)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", str(world.endpoints.kafka_bootstrap_servers))
    monkeypatch.setenv("REDIS_URL", str(world.endpoints.redis_url))
    monkeypatch.setenv("COLUMNS", "200")
    return Shop(world, tmp_path)


def test_every_cause_is_named_from_wherever_exposures_are_read(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [
        ItemEvent(event_id=f"i{k}", event_time_ms=now_ms(), item_id=f"item-{k}", category="mug")
        for k in range(5)
    ]
    shop.send(*items)
    users = ["equal", "late", "ttl", "stale", "version", "damaged"]
    for user in users:
        shop.click(user)

    # ttl: the reader knows no TTL, as Feast's own reads do not.
    time.sleep(HISTORY_TTL_MS / 1000)
    shop.answer("ttl", "ttl", shop.read("ttl", plan=shop.lasting))
    # stale cache: read once; a request after the user acted again is answered from that.
    shop.click("stale")
    kept = shop.read("stale")
    shop.click("stale")
    time.sleep(1.1)  # longer than records may be in flight
    later = shop.read("stale")
    shop.answer("stale cache", "stale", replace(kept, as_of_ms=later.as_of_ms))
    # version: a bundle of former declarations, and one that is gone.
    shop.answer("version", "version", shop.read("version"), bundle=shop.older)
    shop.answer("version, gone", "version", shop.read("version"), bundle="0" * 16)
    # late event: in the log before the request, while the worker stands still.
    shop.click("late")
    os.kill(shop.worker.pid, signal.SIGSTOP)
    shop.click("late", applied=False)
    shop.answer("late event", "late", shop.read("late"))
    os.kill(shop.worker.pid, signal.SIGCONT)
    wait_told(shop.world, shop.num_sent)
    # equal
    shop.click("equal")
    shop.answer("equal", "equal", shop.read("equal"))
    # unexplained: the state of another user in the place of one's own.
    view = shop.plan.view("user_activity")
    own, other = (EntityKeys(view, shop.plan.project).of(user) for user in ("damaged", "late"))
    state = shop.world.redis.hget(other, view.state_field)
    shop.world.redis.hset(own, view.state_field, state)  # type: ignore[arg-type]
    shop.answer("unexplained", "damaged", shop.read("damaged"))
    shop.writer.flush()
    wait_for_worker(shop.world.settings, shop.world.endpoints, Console(quiet=True), timeout_s=60)

    file = tmp_path / "exposures.jsonl"
    file.write_bytes(b"\n".join(encode_exposure(e) for e in shop.exposures))
    to_parquet(shop)
    found = {}
    for source in (["--exposures", str(file)], ["--from", "kafka"], ["--from", "log"]):
        assert cli.main([*source, *IN_FLIGHT, "--json", "--max-unexplained", "1000"]) == 0
        found[source[-1]] = json.loads(capsys.readouterr().out)
    first, *others = found.values()
    assert first["num_exposures"] == len(shop.exposures)
    assert all(other["total"] == first["total"] for other in others)

    causes: dict[str, set[str]] = {e.request_id: set() for e in shop.exposures}
    for example in first["examples"]:
        causes[example["request_id"]].add(example["verdict"])
    assert causes == {
        "equal": set(), "late event": {"late event"}, "ttl": {"ttl"},
        "stale cache": {"stale cache"}, "version": {"version"}, "version, gone": {"version"},
        "unexplained": {"unexplained"},
    }  # fmt: skip

    assert cli.main(["--from", "log"]) == 1  # one is unexplained
    shown = capsys.readouterr().out
    assert "unexplained: request unexplained, user damaged, user_activity:" in shown
    until = str(shop.exposures[-1].now_ms)
    assert cli.main(["--from", "log", "--until", until]) == 0
    assert cli.main(["--from", "log", "--limit", "1"]) == 1
    assert "1 exposures" in capsys.readouterr().out
    assert cli.main(["--from", "log", "--since", str(now_ms() + 10**6)]) == 2
    assert "found none" in capsys.readouterr().err


def to_parquet(shop: Shop) -> None:
    """Write the topic of exposures to the Parquet log."""
    topic = shop.world.topics.exposures
    reader = connect_reader(
        shop.world.settings, shop.world.endpoints, topics=[topic], group=f"{topic}.sink"
    )
    sinks: dict[int, LogSink[Exposure]] = {}
    num = 0

    def take() -> bool:
        nonlocal num
        for record in reader.poll(timeout_ms=200, max_records=100):
            sink = sinks.get(record.partition)
            if sink is None:
                at = TopicPartition(topic, record.partition)
                sink = sinks[record.partition] = LogSink(
                    shop.world.settings.event_log_dir, [at], EXPOSURES
                )
            sink.write([(record, exposure_of(record))])
            num += 1
        return num == len(shop.exposures)

    wait_for(take, 30)
    for sink in sinks.values():
        sink.flush()
        sink.close()
    reader.close()
