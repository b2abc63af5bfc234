"""What it takes to run one server, and how to run it so that it never outlives its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from recsys.die_with_parent import die_with_parent
from recsys.errors import ServerError

Missing = str
"""What a server still lacks to be ready, in words."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A server ready to be started: command, surroundings and the questions to ask it."""

    name: str
    """One word: ``redis``, ``kafka``, ``triton``, ``stream``, ``api``."""
    version: str
    """What runs, for people: ``Apache Kafka 4.3.1 on Java 17``."""
    command: tuple[str, ...]
    address: str
    """Where clients reach it: ``redis://…``, ``host:port`` or ``http://…``; ``-`` when nowhere."""
    work_dir: Path
    """Its working directory; exists."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the starter's environment."""
    host: str = "127.0.0.1"
    ports: Mapping[int, str] = field(default_factory=dict)
    """Ports it will listen on, each with the variable that moves it."""
    missing: Callable[[], Missing | None]
    """One exchange in the server's own protocol: ``None`` when ready. Blocks a second or two at
    most, and may raise OSError, which means not ready."""
    before_start: Callable[[], None] = lambda: None
    """Runs before every start: formats storage, removes what a killed predecessor left."""
    after_ready: Callable[[], None] = lambda: None
    """Runs each time it has become ready: creates topics."""
    ready_timeout_s: float = 60.0
    stop_grace_s: float = 10.0
    """Between SIGTERM and SIGKILL."""
    note: str = ""
    """One line a user should know, such as "events are lost when it stops"."""


def spawn(
    launch: Launch, log: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own; the kernel kills it when we die.

    Call from a thread that lives as long as the server should: the kernel's promise
    (``PR_SET_PDEATHSIG``) is about the starting *thread*.

    Raises:
        ServerError: the program cannot be executed.
    """
    parent = os.getpid()

    try:
        return subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=launch.work_dir,
            env={**environment, **launch.environment},
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
        )
    except OSError as error:
        raise ServerError(
            f"{launch.name}: wanted to run {launch.command[0]}, found: {error.strerror or error}; "
            "remove that file's folder and run again to fetch it anew"
        ) from error


def wait_ready(
    launch: Launch, is_alive: Callable[[], bool], *, poll_s: float = 0.05
) -> Missing | None:
    """Ask until the server is ready (``None``), its process is gone or the time is up."""
    deadline = time.monotonic() + launch.ready_timeout_s
    missing: Missing | None = "no answer yet"
    while time.monotonic() < deadline:
        if not is_alive():
            return "its process ended"
        try:
            missing = launch.missing()
        except OSError as error:
            missing = str(error)
        if missing is None:
            # Another process may hold the port and answer in its place.
            return None if is_alive() else "its process ended"
        time.sleep(poll_s)
    return f"not ready after {launch.ready_timeout_s:.0f} s: {missing}"


def stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the server and all it started: SIGTERM, then SIGKILL to its whole session's group."""
    ask_to_stop(process)
    await_stop(process, grace_s)


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM if it runs; to be sent once, a second one may cut the end short."""
    if process.poll() is None:
        process.terminate()


def await_stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait for one that was asked to stop; SIGKILL to its group after ``grace_s`` or its end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    kill_group(process.pid)
    process.wait()


def kill_group(pid: int) -> None:
    """SIGKILL every process of the group led by ``pid``; nothing when there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
