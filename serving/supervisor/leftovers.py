"""Ends what a killed supervisor could not end itself.

The kernel kills its children with it; *their* children (Triton runs each model in a process of its
own) may live on. Two ways find them: the recorded pids, believed only when the start time agrees,
and a mark in the environment that every descendant inherits.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from recsys.endpoints import endpoints_file
from recsys.settings import Settings
from serving.embedded.launch import kill_group
from serving.embedded.triton import free_shared_memory
from serving.supervisor.state import process_started_s, read_state, state_file

MARK = "RECSYS_SUPERVISED_IN"
"""Environment variable of every child: the folder of its supervisor's process files."""
_GONE_TIMEOUT_S = 10.0
_POLL_S = 0.05
_SAME_START_S = 0.02
"""Start times are counted in ticks of 10 ms."""


def mark_of(run_dir: Path) -> str:
    """Give the value of ``MARK`` for this folder."""
    return str(run_dir.absolute())


def end_leftovers(settings: Settings) -> list[str]:
    """Kill what a former supervisor of this folder left; give a line for each process.

    Call only while no supervisor runs here.
    """
    run_dir = settings.run_dir
    state = read_state(run_dir)
    for server in state.servers if state else []:
        if server.pid is None or server.pid_started_s is None:
            continue
        started = process_started_s(server.pid)
        if started is not None and abs(started - server.pid_started_s) < _SAME_START_S:
            kill_group(server.pid)
    left = _marked(mark_of(run_dir))
    lines = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            lines.append(f"ended a process left behind: {process.name()} (pid {process.pid})")
            process.kill()
    wait_gone([process.pid for process in left])
    free_shared_memory(settings)
    endpoints_file(settings).unlink(missing_ok=True)
    state_file(run_dir).unlink(missing_ok=True)
    return lines


def wait_gone(pids: Sequence[int]) -> None:
    """Wait until these processes run no more."""
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def is_running(pid: int) -> bool:
    """Say whether the process lives; a dead one that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found
