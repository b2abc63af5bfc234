"""Embedded servers of one test session: started by the first test that asks, shared by all workers.

Each server is held by a keeper process (``server_keeper.py``) that ends it as soon as the session
is over, however the session ends. Files in the session's folder say what runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from recsys.settings import Settings
from serving.embedded.launch import Launch, wait_ready

FOLDER_VARIABLE = "RECSYS_TEST_SESSION_DIR"
OWNER_VARIABLE = "RECSYS_TEST_SESSION_PID"
_LEAK_GRACE_S = 60.0
"""A model's process ends at the lowest priority: .7 s of CPU, for which busy cores take long."""


@dataclass(frozen=True, kw_only=True)
class TritonServer:
    """The session's model server. Give your models names of their own and load them by name."""

    grpc_url: str
    calls_url: str
    """The same, with the port at which models are called over HTTP."""
    metrics_url: str
    model_repository: Path


def begin_session() -> Path:
    """Make the session's folder and tell it to the workers through the environment."""
    folder = Path(tempfile.mkdtemp(prefix="recsys-tests-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    return folder


def session_settings(name: str, **changes: object) -> Settings:
    """Give settings with free ports and a folder of their own."""
    redis, kafka, triton = free_ports(1), free_ports(2), free_ports(3)
    api, worker = free_ports(1), free_ports(1)
    return Settings.model_validate(
        {
            "RECSYS_STATE_DIR": Path(os.environ[FOLDER_VARIABLE]) / name,
            "RECSYS_REDIS_PORT": redis,
            "RECSYS_KAFKA_PORT": kafka,
            "RECSYS_TRITON_GRPC_PORT": triton,
            "RECSYS_API_PORT": api,
            "RECSYS_WORKER_METRICS_PORT": worker,
            **changes,
        }
    )


def shared_server(name: str, make: Callable[[Settings], Launch]) -> Settings:
    """Start the server ``name`` unless a worker has; give the settings it was started with."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    record = folder / f"{name}.json"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            settings = session_settings(name)
            keeper = start_kept(make(settings), folder / f"{name}.log")
            keeper.returncode = 0  # the session waits for it, not this object
            record.write_text(
                json.dumps(
                    {
                        "keeper": keeper.pid,
                        "settings": settings.model_dump(mode="json", by_alias=True),
                    }
                )
            )
    return Settings.model_validate(json.loads(record.read_text())["settings"])


def start_kept(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    """Start ``launch`` under a keeper and wait until it is ready; SIGTERM to the keeper ends it."""
    launch.before_start()
    specification = log.with_suffix(".launch.json")
    specification.write_text(
        json.dumps(
            {
                "owner": int(os.environ[OWNER_VARIABLE]),
                "name": launch.name,
                "command": launch.command,
                "work_dir": str(launch.work_dir),
                "environment": dict(launch.environment),
                "stop_grace_s": launch.stop_grace_s,
                "log": str(log),
            }
        )
    )
    program = Path(__file__).with_name("server_keeper.py")
    keeper = subprocess.Popen(
        # -P: our folder has a `serving` too, which must not hide the package of that name.
        [sys.executable, "-P", str(program), str(specification)],
        stdin=subprocess.DEVNULL,
    )
    missing = wait_ready(launch, lambda: keeper.poll() is None)
    if missing is not None:
        keeper.terminate()
        keeper.wait()
        said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise RuntimeError(f"{launch.name} did not start: {missing}\n{said}")
    launch.after_ready()
    return keeper


@contextlib.contextmanager
def own_server(launch: Launch) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for one test; gives its keeper."""
    log = Path(os.environ[FOLDER_VARIABLE]) / f"own-{launch.name}-{random.randrange(1 << 40):x}.log"
    keeper = start_kept(launch, log)
    try:
        yield keeper
    finally:
        keeper.terminate()
        keeper.wait(launch.stop_grace_s + 5.0)


def end_session(keep_logs_in: Path | None) -> list[str]:
    """Stop the session's servers; give a line for each process that had to be killed besides."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    keepers = []
    for record in folder.glob("*.json"):
        if not record.name.endswith(".launch.json"):
            with contextlib.suppress(psutil.NoSuchProcess):
                keeper = psutil.Process(json.loads(record.read_text())["keeper"])
                keeper.send_signal(signal.SIGTERM)
                keepers.append(keeper)
    psutil.wait_procs(keepers, timeout=30)
    leaks = _kill_leaks(folder)
    if keep_logs_in is not None and (logs := list(folder.glob("*.log"))):
        shutil.rmtree(keep_logs_in, ignore_errors=True)
        keep_logs_in.mkdir(parents=True)
        for log in logs:
            shutil.copy(log, keep_logs_in)
    shutil.rmtree(folder, ignore_errors=True)
    return leaks


def _kill_leaks(folder: Path) -> list[str]:
    """End what still carries this session's mark in its environment."""
    deadline = time.monotonic() + _LEAK_GRACE_S
    while (left := _marked(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    lines = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            lines.append(f"pid {process.pid}: {' '.join(process.cmdline())[:200]}")
            process.kill()
    return lines


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(FOLDER_VARIABLE) == str(folder):
                found.append(process)
    return found


def free_ports(count: int) -> int:
    """Give the first of ``count`` free ports in a row, below the range clients are given."""
    while True:
        first = random.randrange(20_000, 32_000)
        if all(_is_free(first + offset) for offset in range(count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
