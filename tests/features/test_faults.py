"""What happens to the store, the disk, the log's records and the clock under a worker process.

Each ends the same way: every event that was acknowledged is counted, and once.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from recsys.clock import DAY_MS, now_ms
from recsys.errors import ServerError
from recsys.events.codec import encode
from recsys.events.kafka import connect_reader, connect_writer
from recsys.events.log_verify import verify
from recsys.events.schema import MIN_EVENT_TIME_MS, Event, InteractionEvent
from recsys.events.topics import Topics
from recsys.features.lag import measure_lag
from recsys.features.online import OnlineReader
from recsys.features.worker_files import ready_pids
from recsys.settings import Settings
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from tests import servers
from tests.end_to_end.system import System
from tests.features.quiet_run import all_records, quiet_run, stored_features
from tests.features.test_stream_worker import World, num_logged, wait_for, wait_told
from tests.features.worlds import vocabulary

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

OwnServer = Callable[[Launch], "subprocess.Popen[bytes]"]
_REBUILD_S = 20
"""Of an empty store, besides the reading of the event log: what docs/operations.md promises."""
_USERS = [f"u{k}" for k in range(10)]


class Faulty(World):
    """A world whose store is its own, to be hurt."""

    def __init__(
        self, settings: Settings, kafka: str, own_server: OwnServer, *, keeps_data: bool = True
    ) -> None:
        launch = redis_launch(settings)
        if not keeps_data:
            command = tuple("no" if part == "yes" else part for part in launch.command)
            launch = replace(launch, command=command)
        self.launch, self._own_server = launch, own_server
        self.keeper = own_server(launch)
        super().__init__(settings, kafka, launch.address)
        self.log_writer = self.writer()
        self.num_sent = 0

    def click(self, count: int) -> None:
        """Send clicks; returns when the log has acknowledged them."""
        events: list[Event] = [
            InteractionEvent(
                event_id=f"c{n}", event_time_ms=now_ms(), user_id=f"u{n % 10}", item_id="i1",
                type="click",
            )
            for n in range(self.num_sent, self.num_sent + count)
        ]  # fmt: skip
        self.num_sent += count
        self.send(self.log_writer, events)

    @property
    def server(self) -> psutil.Process:
        (process,) = psutil.Process(self.keeper.pid).children()
        return process

    def restart_store(self) -> None:
        self.server.kill()
        self.keeper.wait(20)
        self.keeper = self._own_server(self.launch)

    def click_by_clocks(self, *times_ms: int) -> None:
        """Send clicks of senders whose clocks say so."""
        events: list[Event] = [
            InteractionEvent(
                event_id=f"c{self.num_sent + n}", event_time_ms=at_ms, user_id=f"u{n % 10}",
                item_id="i1", type="click",
            )
            for n, at_ms in enumerate(times_ms)
        ]  # fmt: skip
        self.num_sent += len(events)
        self.send(self.log_writer, events)

    def is_told(self) -> bool:
        try:
            return self.told() == self.num_sent
        except redis.RedisError:
            return False

    def counts(self) -> list[float]:
        reader = OnlineReader(self.plan, str(self.endpoints.redis_url))
        try:
            found = reader.read_users(_USERS, vocabulary=vocabulary(), now_ms=now_ms() + 1000)
        finally:
            reader.close()
        return [float(value) for value in found.history_count.values]

    def wait_logged(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait for the event log, then compare: log and features are those of a quiet run."""

        def is_logged() -> bool:
            for worker in self.workers:
                if worker.poll() is None:
                    worker.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            return num_logged(self) == count

        wait_for(is_logged, timeout_s)
        report = verify(self.settings.event_log_dir)
        assert report.is_sound, report.problems
        records = all_records(self.settings, self.endpoints)
        expected, events = quiet_run(self.plan, self.topics, records)
        assert len(events) == count
        assert stored_features(str(self.endpoints.redis_url), self.settings.namespace) == expected

    def close(self) -> None:
        self.log_writer.close()
        super().close()


@pytest.fixture
def faulty(own_settings: Settings, kafka_bootstrap: str, own_server: OwnServer) -> Iterator[Faulty]:
    world = Faulty(own_settings, kafka_bootstrap, own_server)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def forgetful(
    own_settings: Settings, kafka_bootstrap: str, own_server: OwnServer
) -> Iterator[Faulty]:
    world = Faulty(own_settings, kafka_bootstrap, own_server, keeps_data=False)
    try:
        yield world
    finally:
        world.close()


def test_a_store_full_then_read_only_then_slow_then_restarted_is_waited_for(faulty: Faulty) -> None:
    worker = faulty.start_worker()
    faulty.wait_ready(worker)
    faulty.click(50)
    wait_told(faulty, 50)

    def held_up(hurt: Callable[[], object], heal: Callable[[], object], seconds: float) -> None:
        hurt()
        faulty.click(50)
        time.sleep(seconds)
        heal()
        wait_for(faulty.is_told, 60)

    config, replica = faulty.redis.config_set, faulty.redis.replicaof
    held_up(lambda: config("maxmemory", 1), lambda: config("maxmemory", 0), 0.7)
    held_up(lambda: replica("127.0.0.1", "1"), lambda: replica("NO", "ONE"), 0.7)  # type: ignore[no-untyped-call]
    server = faulty.server
    held_up(server.suspend, server.resume, 3.0)  # longer than a write's time-out
    held_up(faulty.restart_store, lambda: None, 0.0)
    assert worker.poll() is None, faulty.said()
    assert faulty.said().count("consuming") == 1, "one run, none was begun anew"
    assert faulty.counts() == [25.0] * 10
    faulty.wait_logged(faulty.num_sent)


def test_a_full_store_tells_nothing_and_keeps_its_reader_waiting(faulty: Faulty) -> None:
    worker = faulty.start_worker()
    faulty.wait_ready(worker)
    faulty.click(20)
    wait_told(faulty, 20)
    faulty.redis.config_set("maxmemory", 1)
    faulty.click(20)
    wait_for(lambda: "waiting for the online store" in faulty.said(), 60)
    assert faulty.told() == 20
    assert faulty.counts() == [2.0] * 10, "what is there can be read"
    faulty.redis.config_set("maxmemory", 0)
    wait_told(faulty, 40)
    assert faulty.counts() == [4.0] * 10


def test_a_store_that_comes_back_empty_is_filled_whether_a_worker_ran_or_not(
    forgetful: Faulty,
) -> None:
    worker = forgetful.start_worker()
    forgetful.wait_ready(worker)
    forgetful.click(200)
    wait_told(forgetful, 200)
    forgetful.wait_logged(200)
    forgetful.restart_store()  # while the worker runs
    forgetful.click(100)
    wait_for(forgetful.is_told, _REBUILD_S)
    assert forgetful.counts() == [30.0] * 10
    forgetful.wait_logged(300)
    before = forgetful.content()
    worker.terminate()
    assert worker.wait(20) == 0
    forgetful.restart_store()  # while none does
    forgetful.wait_ready(forgetful.start_worker())
    wait_for(forgetful.is_told, _REBUILD_S)
    assert forgetful.content() == before


@pytest.fixture
def small_disk(own_settings: Settings) -> Iterator[Path]:
    """Put the event log on a disk of its own, of 256 KB."""
    folder = own_settings.event_log_dir
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk to fill: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_full_under_the_event_log_delays_it_and_no_feature(
    small_disk: Path, faulty: Faulty
) -> None:
    worker = faulty.start_worker()
    faulty.wait_ready(worker)
    faulty.click(20)
    wait_told(faulty, 20)
    faulty.wait_logged(20)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        for size in (4096, 1):
            while _took(file.fileno(), bytes(size)):
                pass
    for _ in range(3):
        faulty.click(100)
        worker.send_signal(signal.SIGUSR1)
        wait_for(faulty.is_told, 60)
    wait_for(lambda: "event log cannot be written" in faulty.said(), 60)
    assert faulty.counts() == [32.0] * 10
    assert num_logged(faulty) == 20
    filler.unlink()
    faulty.wait_logged(320)
    assert worker.poll() is None


def _took(file: int, data: bytes) -> bool:
    try:
        return os.write(file, data) == len(data)
    except OSError:
        return False


def test_poison_and_records_of_a_later_schema_go_to_the_dead_letters(faulty: Faulty) -> None:
    worker = faulty.start_worker()
    faulty.wait_ready(worker)
    event = InteractionEvent(
        event_id="later", event_time_ms=now_ms(), user_id="u0", item_id="i1", type="click"
    )
    later = encode(event).replace(b"{", b'{"schema_version":2,', 1)
    newer = encode(event).replace(b"{", b'{"added_later":[1],', 1)
    poison = [
        later,
        newer,
        b"",
        b"\x00\xff" * 500,
        b"[" * 50_000,
        b'{"kind":"interaction"}',
        b"null",
    ]
    for record in poison:
        faulty.click(10)
        faulty.log_writer.append(faulty.topics.behaviour, b"u0", record)
    faulty.log_writer.append(faulty.topics.items, b"i1", later)
    faulty.click(40)
    wait_told(faulty, faulty.num_sent + len(poison) + 1)
    assert faulty.counts() == [11.0] * 10
    reader = connect_reader(
        faulty.settings, faulty.endpoints, topics=[faulty.topics.dead_letters], group="letters"
    )
    letters = []
    while len(letters) < len(poison) + 1 and (
        found := reader.poll(timeout_ms=3000, max_records=100)
    ):
        letters += found
    reader.close()
    assert len(letters) == len(poison) + 1
    assert sum(b"schema_version" in letter.value for letter in letters) == 2
    faulty.wait_logged(110)
    assert worker.poll() is None
    assert faulty.said().count("consuming") == 1


_JUMPING = """
import time
began, real, real_ns = time.monotonic(), time.time, time.time_ns
JUMPS_S = (0, -86_400, 0, 400 * 86_400, -3)
def jump():
    return JUMPS_S[int((time.monotonic() - began) / 0.4) % len(JUMPS_S)]
time.time = lambda: real() + jump()
time.time_ns = lambda: real_ns() + jump() * 1_000_000_000
"""


def test_nothing_waits_on_a_clock_that_jumps(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_JUMPING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:.")
    worker = faulty.start_worker()
    faulty.wait_ready(worker)
    for _ in range(30):
        faulty.click(10)
        wait_for(faulty.is_told, 60)
        time.sleep(0.1)
    faulty.redis.config_set("maxmemory", 1)  # pauses, too
    faulty.click(100)
    time.sleep(1.0)
    faulty.redis.config_set("maxmemory", 0)
    wait_for(faulty.is_told, 60)
    assert faulty.counts() == [40.0] * 10
    now = now_ms()
    faulty.click_by_clocks(
        now + 3650 * DAY_MS, now - 3650 * DAY_MS, now + DAY_MS, now - DAY_MS, MIN_EVENT_TIME_MS
    )
    wait_for(faulty.is_told, 60)
    ahead = faulty.counts()
    assert [ahead[0], ahead[2], *ahead[5:]] == [41.0, 41.0, *[40.0] * 5], "counted when received"
    faulty.wait_logged(405)
    assert worker.poll() is None
    assert faulty.said().count("share of the partitions") == 1, "it stayed in its group"


@pytest.fixture
def three(tmp_path: Path, kafka_bootstrap: str, redis_url: str) -> Iterator[System]:
    system = System(
        servers.session_settings(
            tmp_path.name,
            RECSYS_STATE_DIR=tmp_path / "var",
            RECSYS_NAMESPACE=f"e{uuid.uuid4().hex[:8]}",
            RECSYS_PARTITIONS=3,
            RECSYS_STREAM_WORKERS=3,
            KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap,
            REDIS_URL=redis_url,
        )
    )
    try:
        yield system
    finally:
        system.run("down")


def test_the_supervisor_keeps_three_workers_that_share_the_partitions(three: System) -> None:
    three.run("up", "--only", "stream")
    settings = three.settings
    pids = ready_pids(settings)
    assert len(pids) == 3
    writer = connect_writer(settings, three.endpoints)
    topics = Topics(namespace=settings.namespace)

    def send(first: int, count: int) -> None:
        for n in range(first, first + count):
            event = InteractionEvent(
                event_id=f"c{n}", event_time_ms=now_ms(), user_id=f"u{n % 50}", item_id="i1",
                type="click",
            )  # fmt: skip
            topic, key = topics.route(event)
            writer.append(topic, key, encode(event))
        writer.flush()

    def has_caught_up() -> bool:
        return sum(lag.num_unapplied for lag in measure_lag(settings, three.endpoints)) == 0

    send(0, 300)
    wait_for(has_caught_up, 60)
    # Each behaviour partition once, over the metrics of all three.
    wait_for(lambda: sorted(_partitions_shown(settings)) == [0, 1, 2], 60)
    psutil.Process(pids[2]).kill()
    send(300, 300)
    wait_for(has_caught_up, 60)
    wait_for(lambda: len(ready_pids(settings)) == 3 and set(ready_pids(settings)) != set(pids), 60)
    send(600, 100)
    writer.close()
    wait_for(has_caught_up, 60)
    wait_for(lambda: sorted(_partitions_shown(settings)) == [0, 1, 2], 60)


def _partitions_shown(settings: Settings) -> list[int]:
    """Give the behaviour partitions of the lag metric, of all workers together."""
    found: list[str] = []
    for number in range(3):
        port = settings.worker_metrics_port + number
        try:
            shown = httpx.get(f"http://{settings.host}:{port}/metrics").text
        except httpx.HTTPError as error:
            raise ServerError(f"worker {number} shows no metrics: {error}") from error
        found += re.findall(
            r'recsys_stream_lag_records{partition="(\d+)",topic="[^"]+behaviour"', shown
        )
    return [int(partition) for partition in found]
