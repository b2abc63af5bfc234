"""Whose CPU and memory is looked at: processes named on the command line, or a running system's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.loadtest.targets import Address
from recsys.errors import InputError

Parts = dict[str, list[psutil.Process]]
"""Processes by the part they belong to, its children among them."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def named_parts(given: Sequence[str]) -> Parts:
    """Find the processes of ``NAME=PID`` words. Raises InputError when one is none."""
    parts: Parts = {}
    for text in given:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal():
            raise InputError(f"--pid: wanted NAME=PID, found {text!r}")
        parts.setdefault(name, []).extend(_family(name, int(number)))
    return parts


def system_parts(state_dir: Path) -> Parts:
    """Find the processes of the system that ``recsys up`` runs in a folder.

    Raises InputError when none runs there.
    """
    path = state_dir / "run" / "supervisor.json"
    try:
        servers = json.loads(path.read_text())["servers"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--state: wanted the folder of a system that runs, found in {path}: {error}; see "
            "`recsys status`"
        ) from error
    parts: Parts = {}
    for server in servers:
        if server["pid"] is not None and psutil.pid_exists(server["pid"]):
            parts[server["name"]] = _family(server["name"], server["pid"])
    if not parts:
        raise InputError(f"--state: wanted a system that runs, found none of {path} running")
    return parts


def system_at(address: Address, state_dir: Path) -> Parts:
    """Give the processes of the system whose API is asked, or none where that is another one."""
    try:
        servers = json.loads((state_dir / "run" / "supervisor.json").read_text())["servers"]
    except (OSError, ValueError, KeyError):
        return {}
    ours = any(
        server["name"].startswith("api") and server["address"].endswith(f":{address.port}")
        for server in servers
    )
    return system_parts(state_dir) if ours and address.host in _LOOPBACK else {}


def _family(name: str, pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess as error:
        raise InputError(f"wanted process {pid} ({name}) to run, found none") from error
