"""A system of this benchmark's own: started by ``recsys up``, filled with made-up behaviour.

Everything lies in one state folder and listens on free ports, so it disturbs nothing that runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.loadtest.untrained_bundle import category_of, item_id
from recsys.clock import DAY_MS, now_ms
from recsys.endpoints import Endpoints, resolve
from recsys.errors import ServerError
from recsys.events.codec import encode
from recsys.events.kafka import connect_writer, latest_positions
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.events.topics import Topics
from recsys.features.feast_environment import feast_connection_string
from recsys.settings import Settings

SERVERS = ("redis", "kafka", "triton", "stream", "api")
"""Without the exposure log's worker: what it reads waits in Kafka, as it would beside peaks."""
_PORTS = {
    "RECSYS_REDIS_PORT": 1, "RECSYS_KAFKA_PORT": 2, "RECSYS_TRITON_GRPC_PORT": 3,
    "RECSYS_API_PORT": 1, "RECSYS_WORKER_METRICS_PORT": 1,
}  # fmt: skip
_COMMAND_S = 300.0
_VARIABLES = "variables.json"


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How much is made up."""

    num_users: int = 2_000
    num_events: int = 100_000
    """Interactions and impressions, over the last four weeks."""
    num_touched: int = 20_000
    """At most so many items are touched, the first ones; the others are known to the bundle and
    not to the store, as most of a large catalogue."""
    seed: int = 1


@dataclass
class System:
    """Commands to one system."""

    settings: Settings
    variables: Mapping[str, str]
    _processes: dict[str, list[psutil.Process]] = field(default_factory=dict)
    _last_s: dict[int, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process of it."""
        return os.environ | dict(self.variables)

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers answer."""
        return resolve(self.settings)

    @property
    def url(self) -> str:
        """Address of its API."""
        return f"http://{self.settings.host}:{self.settings.api_port}"

    def feast_variables(self) -> dict[str, str]:
        """Give what the ``feature_store.yaml`` of ``recsys features apply`` refers to."""
        return {"RECSYS_FEAST_REDIS": feast_connection_string(self.endpoints.require_redis())}

    def run(self, *command: str) -> str:
        """Run ``recsys <command>``; give what it prints. Raises ServerError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "recsys.cli", *command],
            env=self.environment, capture_output=True, text=True, timeout=_COMMAND_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServerError(
                f"recsys {' '.join(command)}: wanted it to work, found exit code "
                f"{done.returncode}: {done.stderr.strip()[-2000:]}"
            )
        return done.stdout

    def find_processes(self) -> None:
        """Look who runs; call it again after a restart."""
        state = json.loads(self.run("status", "--json"))
        self._processes = {}
        for server in state["servers"]:
            if server["pid"] is None:
                continue
            process = psutil.Process(server["pid"])
            name = server["name"]
            self._processes.setdefault(name, []).append(process)
            children = process.children(recursive=True)
            if children:
                self._processes[f"{name}'s children"] = children

    @contextlib.contextmanager
    def paused(self, *, but: tuple[str, ...]) -> Iterator[None]:
        """Stop every process except those of ``but``, so that another is measured undisturbed."""
        self.find_processes()
        stopped = [
            process
            for name, processes in self._processes.items()
            if name.removesuffix("'s children") not in but
            for process in processes
        ]
        try:
            for process in stopped:
                process.suspend()
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def resume(self) -> None:
        """Let go on what a run that was killed left ``paused``; its servers cannot be asked."""
        mine = self.variables["RECSYS_STATE_DIR"]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_stopped = process.status() == psutil.STATUS_STOPPED
                if is_stopped and process.environ().get("RECSYS_STATE_DIR") == mine:
                    process.resume()

    def cpu_s(self) -> dict[str, float]:
        """Give the CPU seconds each part has spent so far; call ``find_processes`` first.

        A process that has ended meanwhile (Redis forks to write its file anew) counts with what it
        had spent when it was last seen.
        """
        return {
            name: sum(self._spent(process) for process in processes)
            for name, processes in self._processes.items()
        }

    def _spent(self, process: psutil.Process) -> float:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            self._last_s[process.pid] = float(times.user + times.system)
        return self._last_s.get(process.pid, 0.0)

    def num_processes(self) -> int:
        """Give how many processes of it there are; call ``find_processes`` first."""
        return sum(len(processes) for processes in self._processes.values())

    def sizes(self) -> dict[str, dict[str, float]]:
        """Give resident memory (MiB), open descriptors and threads of each part that runs."""
        sizes: dict[str, dict[str, float]] = {}
        for name, processes in self._processes.items():
            running = [process for process in processes if process.is_running()]
            sizes[name] = {
                "rss_mib": round(sum(p.memory_info().rss for p in running) / 2**20, 2),
                "descriptors": sum(p.num_fds() for p in running),
                "threads": sum(p.num_threads() for p in running),
            }
        return sizes


def make_system(state_dir: Path, changes: Mapping[str, str]) -> System:
    """Give a system with ports of its own; nothing runs yet."""
    variables = {
        "RECSYS_STATE_DIR": str(state_dir.absolute()),
        "RECSYS_NAMESPACE": "load",
        **{name: str(free_ports(count)) for name, count in _PORTS.items()},
        **changes,
    }
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / _VARIABLES).write_text(json.dumps(variables))
    return System(Settings.model_validate(variables), variables)


def find_system(state_dir: Path) -> System:
    """Give the system that was made in ``state_dir``. Raises ServerError when none was."""
    try:
        variables = json.loads((state_dir / _VARIABLES).read_text())
    except OSError as error:
        raise ServerError(
            f"wanted a prepared system in {state_dir}, found: {error.strerror}; run "
            "`python -m benchmarks.loadtest.throughput prepare --state` with it first"
        ) from error
    return System(Settings.model_validate(variables), variables)


def free_ports(count: int) -> int:
    """Give the first of ``count`` free ports in a row."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first


def user_id(number: int) -> str:
    """Give the identity of user 0 … U - 1, busiest first."""
    return f"u{number}"


def fill(system: System, num_items: int, behaviour: Behaviour) -> None:
    """Send made-up behaviour through Kafka and wait until its features are in Redis."""
    rng = np.random.default_rng(behaviour.seed)
    topics = Topics(namespace=system.settings.namespace)
    touched = min(num_items, behaviour.num_touched)
    end_ms = now_ms() - 60_000
    start_ms = end_ms - 28 * DAY_MS
    count = behaviour.num_events
    users = rng.integers(0, behaviour.num_users, count).tolist()
    items = np.minimum(rng.zipf(1.2, count) - 1, 10**9) % touched
    at_ms = np.sort(rng.integers(start_ms, end_ms, count)).tolist()

    def events() -> Iterator[Event]:
        for row in range(1, touched + 1):
            yield ItemEvent(
                event_id=f"item-{row}", event_time_ms=start_ms, item_id=item_id(row),
                category=category_of(row), price=float(row % 90), title=f"Item {row}",
            )  # fmt: skip
        for n, (user, item, moment) in enumerate(zip(users, items.tolist(), at_ms, strict=True)):
            if n % 5 == 0:
                shown = [item_id((item + step) % touched + 1) for step in range(5)]
                yield ImpressionEvent(
                    event_id=f"e{n}", event_time_ms=moment, user_id=user_id(user),
                    request_id=f"r{n}", items=shown,
                )  # fmt: skip
            else:
                yield InteractionEvent(
                    event_id=f"e{n}", event_time_ms=moment, user_id=user_id(user),
                    item_id=item_id(item + 1), type="click" if n % 7 else "purchase",
                    value=1.0 + n % 90,
                )  # fmt: skip

    writer = connect_writer(system.settings, system.endpoints)
    for event in events():
        topic, key = topics.route(event)
        writer.append(topic, key, encode(event))
    writer.close()
    system.run("lag", "--wait")


def item_positions(system: System) -> dict[str, int]:
    """Give where the item topic ends now, as ``Lineage.log_positions`` has it."""
    topic = Topics(namespace=system.settings.namespace).items
    ends = latest_positions(system.settings, system.endpoints, [topic])
    return {f"{at.topic}:{at.partition}": offset for at, offset in ends.items()}


def wait_http(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    """Wait until ``url`` takes connections. Raises ServerError when its process ends first."""
    host, _, port = url.removeprefix("http://").partition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerError(
                f"wanted {url} to answer, found: {log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.1)
