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
from typing import Any, Literal

import msgspec
import psutil
import redis

from recsys.endpoints import Endpoints
from recsys.events.kafka import ensure_topics
from recsys.events.log import TopicPartition
from recsys.events.topics import Topics
from recsys.features.current_plan import default_repository, definitions_hash
from recsys.features.plan import PLAN_FILE, Plan
from recsys.features.progress import StoredProgress
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from tests.features.redis.redis_servers import start_cluster, urls
from tests.features.worlds import small_plan
from tests.servers import start_kept

StoreKind = Literal["server", "lost", "cluster"]
"""One that keeps its data, one that comes back empty, or several."""
GROW_S = 60.0
"""Longest wait for a server or worker to be there again."""


class Server:
    """One server held by a keeper (``tests/server_keeper.py``)."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        self.launch = launch
        ports = "-".join(map(str, launch.ports))
        self._log = folder / f"chaos-{launch.name}-{ports}-{os.getpid()}.log"
        self._keeper = start_kept(launch, self._log)

    @property
    def url(self) -> str:
        return self.launch.address

    @property
    def keeper(self) -> subprocess.Popen[bytes]:
        return self._keeper

    def kill_and_start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill -9, then start it over the same data."""
        for process in psutil.Process(self._keeper.pid).children(recursive=True):
            process.kill()
        self._keeper.wait(30)
        meanwhile()
        self._keeper = start_kept(self.launch, self._log)

    def stop(self) -> None:
        self._keeper.terminate()
        self._keeper.wait(30)


class Cluster:
    """Three nodes of a Redis Cluster, of which the first has a replica.

    They are hurt in turn: killed and started at once, with what their files have; or one of the
    first two stays away until the other has taken over, without what it was not told.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._nodes: list[Server] = []
        self._num_hurt = 0

        def start(launch: Launch) -> subprocess.Popen[bytes]:
            self._nodes.append(Server(launch, logs))
            return self._nodes[-1].keeper

        self.url = urls(start_cluster(start, folder, replicas=1))

    def kill_and_start(self) -> None:
        """Hurt the next node."""
        turn, self._num_hurt = self._num_hurt % 4, self._num_hurt + 1
        if turn % 2:
            self._nodes[turn // 2 + 1].kill_and_start()
            return
        first, second = self._nodes[0], self._nodes[3]
        if not _is_primary(first):
            first, second = second, first
        wait_for(lambda: _follows(second), GROW_S, "a replica in step")
        first.kill_and_start(lambda: wait_for(lambda: _is_primary(second), GROW_S, "a fail-over"))

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()


def _is_primary(node: Server) -> bool:
    return _replication(node)["role"] == "master"


def _follows(node: Server) -> bool:
    return _replication(node).get("master_link_status") == "up"


def _replication(node: Server) -> dict[str, Any]:
    (port,) = node.launch.ports
    with redis.Redis(port=port) as client:
        return client.info("replication")  # type: ignore[return-value]


def _server(settings: Settings, folder: Path, *, keeps: bool) -> Server:
    launch = redis_launch(settings)
    if not keeps:
        command = tuple("no" if part == "yes" else part for part in launch.command)
        launch = dataclasses.replace(launch, command=command)
    return Server(launch, folder)


class House:
    """Everything one run needs."""

    def __init__(self, settings: Settings, folder: Path, *, store: StoreKind) -> None:
        self.settings = settings
        self.redis: Server | Cluster
        if store == "cluster":
            self.redis = Cluster(settings.state_dir / "cluster", folder)
        else:
            self.redis = _server(settings, folder, keeps=store == "server")
        self.kafka = Server(kafka_launch(settings, lambda _line: None), folder)
        self.endpoints = Endpoints(
            kafka_bootstrap_servers=f"{settings.host}:{settings.kafka_port}",
            broker_profile="kafka",
            redis_url=self.redis.url,
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
        store = RedisHashes(self.redis.url)
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
