"""A system of its own for an experiment: started, taught, hurt and stopped by `recsys` commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.termination import ended_by_sigterm
from recsys.errors import ServerError

_FOREIGN = ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "TRITON_GRPC_URL", "RECSYS_API_HOST")
"""Servers of somebody else are not ours to kill."""
_FIRST_PORT = 24_000
_COMMAND_S = 900.0


class System:
    """One running system, in a folder and on ports of its own."""

    def __init__(self, state_dir: Path, settings: dict[str, str]) -> None:
        self.state_dir = state_dir
        ports = _free_ports(10)
        names = ("REDIS_PORT", "KAFKA_PORT", "TRITON_GRPC_PORT", "API_PORT", "WORKER_METRICS_PORT")
        self.port = ports + 6
        offsets = dict(zip(names, (0, 1, 3, 6, 7), strict=True))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in _FOREIGN},
            "RECSYS_STATE_DIR": str(state_dir),
            **{f"RECSYS_{name}": str(ports + offset) for name, offset in offsets.items()},
            **settings,
        }

    def run(self, *command: str) -> str:
        """Run ``recsys <command>``; gives what it prints.

        Raises:
            ServerError: with its last lines when it fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "recsys.cli", *command], env=self.environment,
            capture_output=True, text=True, timeout=_COMMAND_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
            raise ServerError(f"recsys {' '.join(command)} ended with {done.returncode}:\n{said}")
        return done.stdout

    def state(self, server: str) -> dict[str, Any]:
        """Give what the supervisor says of a server."""
        document = json.loads((self.state_dir / "run" / "supervisor.json").read_text())
        for found in document["servers"]:
            if found["name"] == server:
                return dict(found)
        names = ", ".join(found["name"] for found in document["servers"])
        raise ServerError(f"wanted a server {server}, found {names}")

    def pid(self, server: str) -> int:
        """Give the process of a server that runs."""
        pid = self.state(server)["pid"]
        if pid is None:
            raise ServerError(f"wanted {server} to run, found: {self.state(server)['phase']}")
        return int(pid)

    def await_ready(self, server: str, timeout_s: float) -> None:
        """Wait until the supervisor has seen a server answer.

        Raises:
            ServerError: when it has not in ``timeout_s``.
        """
        wait_until(lambda: self.state(server)["phase"] == "ready", f"{server} ready", timeout_s)


@contextmanager
def running_system(
    state_dir: Path, settings: dict[str, str], *, only: str = ""
) -> Iterator[System]:
    """Start a system, or ``only`` these of its servers, and stop it at the end, however that comes:
    SIGTERM too."""
    system = System(state_dir, settings)
    with ended_by_sigterm():
        try:
            system.run("up", *(("--only", only) if only else ()))
            yield system
        finally:
            subprocess.run(
                [sys.executable, "-m", "recsys.cli", "down"], env=system.environment,
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip


def teach(system: System, *, num_users: int, num_items: int, days: int) -> None:
    """Give it a small simulated past, and a bundle that learned from it."""
    world = ["--users", str(num_users), "--items", str(num_items), "--days", str(days)]
    system.run("simulate", *world, "--to-kafka")
    system.run("lag", "--wait")
    system.run(
        "train", "--dataset", "simulated", "--recipe", "debug", "--no-ray", "--no-tracking",
        "--quiet",
    )  # fmt: skip
    system.run("publish")


def hurt(pid: int, how: str, stopped_s: float) -> None:
    """Kill a process, or stop it for ``stopped_s`` and let it go on. Returns when that is done."""
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
        return
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(stopped_s)
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_until(check: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Wait for ``check``; gives the seconds it took. Raises ServerError when it takes too long."""
    start_s = time.monotonic()
    while not check():
        if time.monotonic() - start_s > timeout_s:
            raise ServerError(f"wanted {what} within {timeout_s:g} s, found it is not")
        time.sleep(0.05)
    return time.monotonic() - start_s


def _free_ports(count: int) -> int:
    """Give the first of ``count`` free ports in a row."""
    for first in range(_FIRST_PORT + os.getpid() % 400 * 10, 32_000, count):
        if all(_is_free(first + offset) for offset in range(count)):
            return first
    raise ServerError(f"wanted {count} free ports in a row from {_FIRST_PORT}, found none")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
