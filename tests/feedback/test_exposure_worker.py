"""The process that logs exposures, over real Kafka: killed, doubled, and asked to forget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from recsys.endpoints import Endpoints
from recsys.events.kafka import connect_writer, ensure_topics
from recsys.events.log_verify import verify
from recsys.events.topics import Topics
from recsys.features.worker_files import ask_to_store, exposures_ready_file
from recsys.feedback.exposure import encode_exposure
from recsys.feedback.exposure_log import iter_exposures, scan_exposures
from recsys.settings import Settings
from tests.feedback.test_exposure_log import exposure

pytestmark = pytest.mark.servers


def wait_for(claim: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.05)


class House:
    """The topic and the processes."""

    def __init__(self, settings: Settings, kafka: str) -> None:
        self.settings = settings
        self.endpoints = Endpoints(kafka_bootstrap_servers=kafka, broker_profile="kafka")
        self.topic = Topics(namespace=settings.namespace).exposures
        ensure_topics(settings, self.endpoints, [self.topic])
        self.writer = connect_writer(settings, self.endpoints)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "RECSYS_STATE_DIR": str(self.settings.state_dir),
            "RECSYS_NAMESPACE": self.settings.namespace,
            "KAFKA_BOOTSTRAP_SERVERS": str(self.endpoints.kafka_bootstrap_servers),
            "RECSYS_PARTITIONS": str(self.settings.num_partitions),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.exposure_worker"], env=environment
        )
        self.processes.append(process)
        return process

    def send(self, numbers: range) -> None:
        for n in numbers:
            user = f"u{n % 7}"
            self.writer.append(self.topic, user.encode(), encode_exposure(exposure(n, user)))
        self.writer.flush()

    def num_logged(self) -> int:
        ask_to_store(self.settings)
        time.sleep(0.2)
        return scan_exposures(self.settings.event_log_dir, [self.topic]).collect().height

    def close(self) -> None:
        self.writer.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def house(own_settings: Settings, kafka_bootstrap: str) -> Iterator[House]:
    house = House(own_settings, kafka_bootstrap)
    try:
        yield house
    finally:
        house.close()


def test_killed_at_any_moment_every_exposure_is_logged_once(house: House) -> None:
    first = house.start()
    house.send(range(100))
    wait_for(exposures_ready_file(house.settings).exists)
    wait_for(lambda: house.num_logged() == 100)
    house.send(range(100, 200))
    house.writer.append(house.topic, b"u1", b"no exposure")
    house.writer.flush()
    first.send_signal(signal.SIGUSR1)
    time.sleep(0.05)
    first.kill()
    first.wait()
    house.send(range(200, 250))
    second = house.start()
    wait_for(lambda: house.num_logged() == 250)
    second.terminate()
    assert second.wait(20) == 0
    assert not exposures_ready_file(house.settings).exists()
    report = verify(house.settings.event_log_dir)
    assert (report.problems, report.num_refused) == ([], 1)
    found = list(iter_exposures(house.settings.event_log_dir, [house.topic]))
    assert sorted(one.request_id for one in found) == sorted(f"r{n}" for n in range(250))
