"""A broker, a store and workers of one chaos run, and how each of them is hurt."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from recsys.endpoints import Endpoints
from recsys.events.kafka import ensure_topics
from recsys.events.log import TopicPartition
from recsys.events.topics import Topics
from recsys.features.plan import PLAN_FILE, Plan, default_repository, definitions_hash
from recsys.features.progress import StoredProgress
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from tests.features.worlds import small_plan
from tests.servers import start_kept

GROW_S = 60.0
"""Longest wait for a server or worker to be there again."""


class Server:
    """One server held by a keeper (``tests/server_keeper.py``)."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        self.launch = launch
        self._log = folder / f"chaos-{launch.name}-{os.getpid()}.log"
        self._keeper = start_kept(launch, self._log)

    def kill_and_start(self) -> None:
        """Kill -9, then start it over the same data."""
        for process in psutil.Process(self._keeper.pid).children(recursive=True):
            process.kill()
        self._keeper.wait(30)
        self._keeper = start_kept(self.launch, self._log)

    def stop(self) -> None:
        self._keeper.terminate()
        self._keeper.wait(30)


class House:
    """Everything one run needs."""

    def __init__(self, settings: Settings, folder: Path, *, keep_redis: bool) -> None:
        self.settings = settings
        launch = redis_launch(settings)
        if not keep_redis:
            command = tuple("no" if part == "yes" else part for part in launch.command)
            launch = dataclasses.replace(launch, command=command)
        self.redis = Server(launch, folder)
        self.kafka = Server(kafka_launch(settings, lambda _line: None), folder)
        self.endpoints = Endpoints(
            kafka_bootstrap_servers=f"{settings.host}:{settings.kafka_port}",
            broker_profile="kafka",
            redis_url=self.redis.launch.address,
        )
        self.topics = Topics(namespace=settings.namespace)
        self.plan: Plan = msgspec.structs.replace(
            small_plan(settings.namespace), definitions_hash=definitions_hash(default_repository())
        )
        self.plan.dump(settings.state_dir / PLAN_FILE)
        ensure_topics(settings, self.endpoints, self.topics.all())
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.log = settings.state_dir / "workers.log"

    def start_worker(self) -> None:
        """Start one more worker, under the lowest free number."""
        number = next(n for n in range(99) if n not in self.workers)
        environment = os.environ | {
            "RECSYS_STATE_DIR": str(self.settings.state_dir),
            "RECSYS_NAMESPACE": self.settings.namespace,
            "RECSYS_PARTITIONS": str(self.settings.num_partitions),
            "RECSYS_WORKER_METRICS_PORT": "0",
            "KAFKA_BOOTSTRAP_SERVERS": str(self.endpoints.kafka_bootstrap_servers),
            "REDIS_URL": str(self.endpoints.redis_url),
        }
        with self.log.open("ab") as log:
            self.workers[number] = subprocess.Popen(
                [sys.executable, "-m", "serving.stream_worker", "--number", str(number)],
                env=environment,
                stderr=log,
            )

    def end_worker(self, number: int, how: signal.Signals) -> None:
        """Kill or ask a worker to stop; one that was stopped (SIGSTOP) is woken."""
        worker = self.workers.pop(number)
        worker.send_signal(how)
        worker.send_signal(signal.SIGCONT)
        worker.wait(GROW_S)

    def mend(self, wanted: int) -> None:
        """See that so many workers are there, whoever died of what."""
        for number in [n for n, worker in self.workers.items() if worker.poll() is not None]:
            del self.workers[number]
        while len(self.workers) < wanted:
            self.start_worker()
        while len(self.workers) > wanted:
            self.end_worker(max(self.workers), signal.SIGTERM)

    def progress(self) -> dict[TopicPartition, int]:
        """Give how far the features have got."""
        store = RedisHashes(self.redis.launch.address)
        try:
            stored = StoredProgress(store, self.settings.namespace)
            partitions = [
                TopicPartition(topic, partition)
                for topic in (self.topics.items, self.topics.behaviour)
                for partition in range(self.settings.num_partitions)
            ]
            return {at: stored.of(at)[0] or 0 for at in partitions}
        finally:
            store.close()

    def close(self) -> None:
        for number in list(self.workers):
            self.end_worker(number, signal.SIGKILL)
        self.kafka.stop()
        self.redis.stop()


def wait_for(claim: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return once the claim holds."""
    end_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.1)
