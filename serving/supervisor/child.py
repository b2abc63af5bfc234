"""One server that the supervisor runs: where it stands, and when it is started again."""

from __future__ import annotations

import logging
import signal
import subprocess
from dataclasses import dataclass, field

from serving.embedded.launch import Launch, Missing, wait_ready
from serving.supervisor.members import Member
from serving.supervisor.state import (
    ServerPhase,
    ServerState,
)

logger = logging.getLogger(__name__)

_TICK_S = 0.1
"""How soon a crash is noticed at the latest."""
_NEVER_STARTED_LIMIT = 3
"""Times a server may end before it was ever ready; then ``up`` has failed."""
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """When a server that ended by itself is started again."""

    initial_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 30.0
    """Seldom enough to cost nothing, often enough to be there soon after the cause is gone."""
    stable_s: float = 60.0
    """Ready for this long, the next crash counts as the first."""
    log_limit_bytes: int = 64 << 20
    """A server's log beyond this begins anew; its last part is kept in ``<server>.log.1``."""

    def delay_s(self, failures: int) -> float:
        """Give the pause before the next start after ``failures`` (≥ 1) in a row."""
        return min(self.cap_s, self.initial_s * self.factor ** (failures - 1))


@dataclass
class Child:
    """A server with its process, where it has one now."""

    member: Member
    launch: Launch
    phase: ServerPhase = "waiting"
    process: subprocess.Popen[bytes] | None = None
    pid_started_s: float | None = None
    began: float = 0.0
    ready_at: float | None = None
    took_s: float | None = None
    answer: list[Missing | None] = field(default_factory=list)
    """What the asking thread found: empty while it asks."""
    failures: int = 0
    restarts: int = 0
    start_at: float = 0.0
    was_ready: bool = False
    problem: str = ""


def state_of(member: Member, child: Child | None) -> ServerState:
    """Give what others are told of a member; ``None``: the user's own server."""
    if child is None:
        return ServerState(
            name=member.name, version="your own", address=member.address, external=True,
            phase="ready",
        )  # fmt: skip
    return ServerState(
        name=member.name,
        version=child.launch.version,
        address=member.address,
        phase=child.phase,
        pid=child.process.pid if child.process else None,
        pid_started_s=child.pid_started_s,
        took_s=child.took_s,
        restarts=child.restarts,
        note=child.launch.note,
        problem=child.problem,
    )


def ask(child: Child, process: subprocess.Popen[bytes], answer: list[Missing | None]) -> None:
    """Wait for ready and finish the start (topics); the main thread alone reaps the process."""

    def is_alive() -> bool:
        return child.process is process and process.returncode is None

    missing: Missing | None
    try:
        missing = wait_ready(child.launch, is_alive)
        if missing is None:
            child.launch.after_ready()
    except Exception as error:  # noqa: BLE001  whatever it is, the start has failed
        missing = str(error) or type(error).__name__
    answer.append(missing)


def how_it_ended(code: int) -> str:
    """Say an exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
