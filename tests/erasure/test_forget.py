"""``recsys forget`` over real Kafka and Redis, cut off at any moment and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from recsys.clock import DAY_MS, now_ms
from recsys.erasure import cli
from recsys.errors import EventError
from recsys.events.codec import encode
from recsys.events.dead_letters import replay, send_dead_letter
from recsys.events.event_log import scan
from recsys.events.kafka import connect_reader, latest_positions
from recsys.events.log import Record
from recsys.events.log_verify import verify
from recsys.events.schema import Event, InteractionEvent, ItemEvent, UserEvent
from recsys.events.spool import Spool
from recsys.events.spool_folder import EVENTS_FILE, take_folder
from recsys.events.spool_groups import LogRecord
from recsys.events.spooled_writer import SpooledWriter
from recsys.features.key_layout import ending_of_user, is_keyed_by_user
from recsys.features.worker_files import exposures_ready_file
from recsys.feedback.exposure import encode_exposure
from recsys.feedback.exposure_log import scan_exposures
from recsys.settings import Settings
from tests.features.test_stream_worker import World, wait_for, wait_told
from tests.feedback.test_exposure_log import exposure

pytestmark = pytest.mark.servers
NOW = now_ms()


@pytest.fixture
def world(
    own_settings: Settings, kafka_bootstrap: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    world = World(own_settings, kafka_bootstrap, redis_url)
    environment = {
        "RECSYS_STATE_DIR": str(own_settings.state_dir),
        "RECSYS_NAMESPACE": own_settings.namespace,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "REDIS_URL": redis_url,
        "RECSYS_PARTITIONS": str(own_settings.num_partitions),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield world
    finally:
        world.close()


def click(n: int, user: str) -> InteractionEvent:
    return InteractionEvent(
        event_id=f"{user}{n}", event_time_ms=NOW - DAY_MS + n, user_id=user, item_id="i1",
        type="click",
    )  # fmt: skip


def some_events() -> list[Event]:
    """Of ada, of bob, and of an item that is called as ada is."""
    items: list[Event] = [
        ItemEvent(event_id=f"e{i}", event_time_ms=NOW - 2 * DAY_MS, item_id=i, category="tea")
        for i in ("i1", "ada")
    ]
    users: list[Event] = [
        UserEvent(event_id=f"p{u}", event_time_ms=NOW - DAY_MS, user_id=u, attributes={"age": 7})
        for u in ("ada", "bob")
    ]
    return items + users + [click(n, user) for n in range(30) for user in ("ada", "bob")]


def of_user(world: World, user: str) -> dict[bytes, dict[bytes, bytes]]:
    """Give the user's hashes."""
    ending = ending_of_user(user, world.settings.namespace)
    content = world.content()
    return {k: v for k, v in content.items() if k.endswith(ending) and is_keyed_by_user(k)}


def of_others(world: World, user: str) -> dict[bytes, dict[bytes, bytes]]:
    """Give all hashes keyed by other users, and which items there are."""
    mine = of_user(world, user)
    content = {k: v for k, v in world.content().items() if k not in mine and b"progress" not in k}
    return {k: v if is_keyed_by_user(k) else {} for k, v in content.items()}


def proof_of(output: bytes) -> dict[str, object]:
    proof: dict[str, object] = json.loads(output)
    return proof


def forget_and_die(
    said: int, durable: int, user: str = "ada"
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.erasure.forget_worker", str(said), str(durable)]
    return subprocess.run(
        [*command, "--user", user, "--json"], env=dict(os.environ), capture_output=True, check=False
    )


def rows_of(world: World, user: str) -> pl.DataFrame:
    log = scan(world.settings.event_log_dir, [world.topics.behaviour])
    return log.filter(pl.col("user_id") == user, pl.col("kind") != "forget").collect()


def test_killed_anywhere_and_run_again_the_user_is_gone_and_no_replay_brings_them_back(
    world: World,
) -> None:
    worker = world.start_worker()
    writer = world.writer()
    events = some_events()
    world.send(writer, events)
    bad = Record(world.topics.behaviour, 0, 7, b"ada", encode(click(99, "ada")), NOW)
    send_dead_letter(writer, world.topics.dead_letters, bad, EventError("it was a test"))
    writer.flush()
    world.wait_ready(worker)
    wait_told(world, len(events))
    others = of_others(world, "ada")
    assert of_user(world, "ada")
    folder = world.settings.state_dir
    (folder / "training" / "run").mkdir(parents=True)
    (folder / "training" / "run" / "prepared.pt").write_bytes(b"ada")
    (folder / "training" / "examples" / "set").mkdir(parents=True)
    (folder / "training" / "examples" / "set" / "visits-00000.parquet").write_bytes(b"ada")
    table = folder / "saved" / "set.parquet"
    table.parent.mkdir()
    pl.DataFrame({"user_id": ["ada", "bob", None], "n": [1, 2, 3]}).write_parquet(table)

    # Before the record is sent; behind it; after the wait; in the rewriting.
    for said, durable in ((2, 0), (3, 0), (4, 0), (0, 2)):
        assert forget_and_die(said, durable).returncode == -signal.SIGKILL, (said, durable)
        assert of_others(world, "ada") == others
    done = forget_and_die(0, 0)
    assert done.returncode == 0, done.stderr
    proof = proof_of(done.stdout)
    assert proof["complete"] is True
    assert isinstance(proof["kafka"], list)
    assert {topic["cleanup_policy"] for topic in proof["kafka"]} == {"delete"}
    assert isinstance(proof["places"], list)
    assert all(place["num_left"] == 0 for place in proof["places"])

    assert of_user(world, "ada") == {}
    assert of_others(world, "ada") == others
    assert rows_of(world, "ada").is_empty()
    assert len(rows_of(world, "bob")) == 31
    for path in world.settings.event_log_dir.rglob("*.parquet"):
        left = pl.read_parquet(path, hive_partitioning=False).filter(pl.col("user_id") == "ada")
        assert set(left["kind"]) <= {"forget"}
    assert verify(world.settings.event_log_dir).is_sound
    assert not (folder / "training").exists()
    assert pl.read_parquet(table)["n"].to_list() == [2, 3]
    assert num_replayed(world) == 0

    # What the user does from now on is new, and a rebuild from nothing says the same.
    total = world.told() + 1
    world.send(writer, [click(200, "ada")])
    wait_told(world, total)
    new, others = of_user(world, "ada"), of_others(world, "ada")
    assert new
    worker.terminate()
    assert worker.wait(20) == 0
    assert len(rows_of(world, "ada")) == 1
    for key in list(world.content()):
        world.redis.delete(key)
    worker = world.start_worker()
    world.wait_ready(worker)
    wait_told(world, total)
    assert of_user(world, "ada") == new
    assert of_others(world, "ada") == others
    # Also from Kafka alone, which still has what was sent before.
    worker.terminate()
    assert worker.wait(20) == 0
    for key in list(world.content()):
        world.redis.delete(key)
    world.settings.event_log_dir.rename(folder / "event_log.lost")
    worker = world.start_worker()
    world.wait_ready(worker)
    wait_told(world, total)
    assert of_user(world, "ada") == new
    assert of_others(world, "ada") == others
    writer.close()


def num_replayed(world: World) -> int:
    topic = world.topics.dead_letters
    ends = latest_positions(world.settings, world.endpoints, [topic])
    reader = connect_reader(world.settings, world.endpoints, topics=[topic], group="replay")
    writer = world.writer()
    try:
        return replay(reader, writer, ends).num_sent
    finally:
        reader.close()
        writer.close()


def test_exposures_go_too_and_those_of_others_stay(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = subprocess.Popen([sys.executable, "-m", "serving.exposure_worker"])
    world.workers.append(logger)  # so that it ends with the others
    worker = world.start_worker()
    writer = world.writer()
    answers = [exposure(n, user) for n in range(5) for user in ("ada", "bob")]
    for one in answers:
        writer.append(world.topics.exposures, one.user_id.encode(), encode_exposure(one))
    writer.flush()
    world.wait_ready(worker)
    wait_for(exposures_ready_file(world.settings).exists, 30)
    assert cli.main(["--user", "ada", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)["places"]
    (place,) = [place for place in places if world.topics.exposures in place["name"]]
    assert (place["num_found"], place["num_removed"], place["num_left"]) == (5, 5, 0)
    logger.terminate()
    assert logger.wait(20) == 0
    log = scan_exposures(world.settings.event_log_dir, [world.topics.exposures]).collect()
    assert log["user_id"].to_list() == ["bob"] * 5
    assert verify(world.settings.event_log_dir).num_erased == 5
    writer.close()


def test_what_comes_after_stays_and_a_look_changes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = world.start_worker()
    writer = world.writer()
    events = some_events()
    world.send(writer, events)
    world.wait_ready(worker)
    wait_told(world, len(events))
    before = world.content()
    assert cli.main(["--user", "ada", "--dry-run", "--json"]) == 0
    proof = proof_of(capsys.readouterr().out.encode())
    assert (proof["dry_run"], proof["complete"]) == (True, False)
    assert world.content() == before
    assert cli.main(["--user", "nobody"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is left here" in shown
    assert "7 d" in " ".join(shown.split())
    assert cli.main(["--user", "ada"]) == 0
    assert "nothing is left here" in capsys.readouterr().out
    assert of_user(world, "ada") == {}
    writer.close()


def test_what_waits_for_kafka_is_sent_before_the_record_or_removed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = world.start_worker()
    world.wait_ready(worker)
    folder = take_folder(world.settings.spool_path)

    def kept(event: Event) -> LogRecord:
        return (*world.topics.route(event), encode(event))

    spool = Spool(folder.path / EVENTS_FILE)
    spool.add([kept(event) for event in some_events()])
    assert cli.main(["--user", "ada", "--timeout", "1"]) == 2
    assert f"{spool.path} still holds" in capsys.readouterr().err
    ends = latest_positions(world.settings, world.endpoints, [world.topics.behaviour])
    assert not any(ends.values()), "no record is sent while something older waits"
    sender = SpooledWriter(world.writer, spool)
    sender.start()  # Kafka is back
    assert cli.main(["--user", "ada"]) == 0
    assert "nothing is left here" in capsys.readouterr().out
    sender.close()
    folder.close()
    assert of_user(world, "ada") == {}
    assert of_user(world, "bob")

    nobodys = Spool(folder.path / EVENTS_FILE)
    nobodys.add([kept(click(200, "ada")), kept(click(200, "bob"))])
    nobodys.close()
    assert cli.main(["--user", "ada", "--json"]) == 0
    proof = proof_of(capsys.readouterr().out.encode())
    (place,) = [p for p in proof["places"] if p["name"] == "spools"]  # type: ignore[attr-defined]
    assert (place["num_found"], place["num_removed"], place["num_left"]) == (1, 1, 0)
    left = Spool(nobodys.path).first()
    assert left is not None
    assert [key for _, key, _ in left.records] == [b"bob"]


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 2000])
def test_no_id_is_refused(world: World, user: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--user", user]) == 2
    assert "--user" in capsys.readouterr().err


def test_without_a_worker_it_says_so_in_time(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--user", "ada", "--timeout", "1"]) == 2
    said = capsys.readouterr().err
    assert "run this command again" in said
    assert cli.main(["--user", "ada", "--timeout", "0"]) == 2
    assert "--timeout" in capsys.readouterr().err


def test_a_table_that_cannot_be_read_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(world.settings.state_dir) / "saved.parquet"
    path.write_bytes(b"no parquet")
    assert cli.main(["--user", "ada", "--dry-run"]) == 2
    assert str(path) in capsys.readouterr().err
