"""Prints the state of the servers, for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import psutil
from rich.console import Console
from rich.table import Table

from serving.supervisor.state import ServerState, SupervisorState

_MEBIBYTE = 1 << 20


def print_table(
    console: Console, state: SupervisorState, problems: Mapping[str, str] | None = None
) -> None:
    """Print one row per server; ``problems`` are what it lacks when asked just now."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("server", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("address", no_wrap=True)
    for name in ("pid", "took", "MiB", "restarts"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for server in state.servers:
        problem = (problems or {}).get(server.name, "")
        phase = server.phase
        shown = "not answering" if problem and phase == "ready" else phase
        table.add_row(
            server.name,
            shown,
            server.address,
            str(server.pid or "-"),
            "-" if server.took_s is None else f"{server.took_s:.1f} s",
            str(_memory_mib(server.pid) or "-"),
            "-" if server.external else str(server.restarts),
            server.version,
        )
    console.print(table)
    for server in state.servers:
        for line in (server.note, (problems or {}).get(server.name) or server.problem):
            if line:
                console.print(f"{server.name}: {line}", soft_wrap=True)


def print_json(state: SupervisorState | None, problems: Mapping[str, str]) -> None:
    """Print one JSON object: ``{"running": …, "ready": …, "servers": [...]}``."""
    servers = state.servers if state else []
    found = {
        "running": state is not None,
        "ready": state is not None and state.phase == "ready" and not any(problems.values()),
        "supervisor_pid": state.pid if state else None,
        "servers": [_as_json(server, problems) for server in servers],
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def _as_json(server: ServerState, problems: Mapping[str, str]) -> dict[str, object]:
    return {
        **server.model_dump(exclude={"pid_started_s"}),
        "answers": not problems.get(server.name),
        "problem": problems.get(server.name) or server.problem,
        "memory_mib": _memory_mib(server.pid),
    }


def _memory_mib(pid: int | None) -> int | None:
    """Give the resident memory of the server and all it started."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) // _MEBIBYTE
    except psutil.Error:
        return None
