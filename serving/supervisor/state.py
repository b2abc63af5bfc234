"""What the supervisor lets others see: one file, replaced in one step, and a lock it holds.

The lock is a POSIX record lock: the kernel frees it with its holder, and anyone may ask who holds
it without taking it. (A process loses such a lock when it closes *any* handle of that file, so the
supervisor opens it once.)
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import IO, Literal

import psutil
from pydantic import BaseModel, ConfigDict

ServerPhase = Literal["waiting", "starting", "ready", "backing off", "failed", "stopped"]
SupervisorPhase = Literal["starting", "ready", "stopping", "failed"]

_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, len, pid


class ServerState(BaseModel):
    """One server as it is now."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: str
    address: str
    external: bool = False
    """The user's own: watched by nobody here."""
    phase: ServerPhase = "waiting"
    pid: int | None = None
    pid_started_s: float | None = None
    """The kernel's start time of ``pid``: tells it from a later process of the same number."""
    took_s: float | None = None
    """From its last start to ready."""
    restarts: int = 0
    """Times it ended by itself and was started again."""
    note: str = ""
    problem: str = ""
    """What went wrong last."""


class SupervisorState(BaseModel):
    """The supervisor and its servers, in order of starting."""

    model_config = ConfigDict(extra="forbid")

    pid: int
    phase: SupervisorPhase
    started_ms: int
    problem: str = ""
    servers: list[ServerState]


def state_file(run_dir: Path) -> Path:
    """Give the file the state lies in."""
    return run_dir / "supervisor.json"


def read_state(run_dir: Path) -> SupervisorState | None:
    """Give the last state written; ``None`` when there is none."""
    try:
        return SupervisorState.model_validate_json(state_file(run_dir).read_bytes())
    except FileNotFoundError:
        return None


def write_state(run_dir: Path, state: SupervisorState) -> None:
    """Replace the state in one step."""
    path = state_file(run_dir)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(state.model_dump_json(indent=1))
    os.replace(temporary, path)  # noqa: PTH105  one atomic step


def log_file(run_dir: Path, server: str) -> Path:
    """Give the file that collects what ``server`` prints."""
    return run_dir / "logs" / f"{server}.log"


def take_lock(run_dir: Path) -> IO[str] | None:
    """Take the supervisor's lock for as long as the handle is open; ``None``: another holds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    handle = (run_dir / "supervisor.lock").open("a+")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def running_supervisor(run_dir: Path) -> int | None:
    """Give the pid of the supervisor that holds the lock, if one does."""
    try:
        with (run_dir / "supervisor.lock").open("r") as handle:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(handle, fcntl.F_GETLK, asked)
    except FileNotFoundError:
        return None
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else pid


def process_started_s(pid: int) -> float | None:
    """Give the kernel's start time of ``pid``, or ``None`` when it is gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
