"""Keeps the plan's servers running: starts them, waits for ready, restarts what ended by itself.

Everything happens in the main thread (the kernel's promise to kill children with their starter is
about that thread); only the questions "are you ready?" are asked from threads of their own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from recsys.clock import now_ms
from recsys.endpoints import Endpoints, endpoints_file
from recsys.endpoints import write as write_endpoints
from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.signal_event import SignalEvent
from recsys.telemetry import CHILD_RESTARTS
from serving.embedded.launch import ask_to_stop, await_stop, kill_group, spawn, stop
from serving.embedded.machine import require_free_port
from serving.supervisor.child import Child, RestartPolicy, ask, how_it_ended, state_of
from serving.supervisor.leftovers import MARK, mark_of
from serving.supervisor.members import Member
from serving.supervisor.state import (
    SupervisorPhase,
    SupervisorState,
    log_file,
    process_started_s,
    write_state,
)

logger = logging.getLogger(__name__)

_TICK_S = 0.1
"""How soon a crash is noticed at the latest."""
_NEVER_STARTED_LIMIT = 3
"""Times a server may end before it was ever ready; then ``up`` has failed."""
_LAST_LINES = 5


class Supervisor:
    """Runs a plan until it is told to stop or the plan cannot be started."""

    def __init__(
        self,
        settings: Settings,
        plan: Sequence[Member],
        *,
        policy: RestartPolicy | None = None,
        on_change: Callable[[SupervisorState], None] | None = None,
    ) -> None:
        """Take the plan; ``on_change`` is told every new state, beside the state file."""
        self._settings = settings
        self._plan = list(plan)
        self._policy = policy or RestartPolicy()
        self._on_change = on_change
        self._children = [
            Child(member=member, launch=member.launch) for member in plan if member.launch
        ]
        self._endpoints = Endpoints()
        self._phase: SupervisorPhase = "starting"
        self._problem = ""
        self._started_ms = now_ms()
        self._stop = SignalEvent()
        self._told: list[int] = []
        """Signals that came."""
        self._environment = {**os.environ, MARK: mark_of(settings.run_dir)}

    def run(self) -> bool:
        """Start everything and keep it running; ``False`` when it could not be started.

        Returns once SIGTERM or SIGINT came (or the start failed) and everything is stopped.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told_to_stop)
        (self._settings.run_dir / "logs").mkdir(parents=True, exist_ok=True)
        write_endpoints(self._settings, self._endpoints)
        self._publish()
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._step(child)
                if self._phase == "starting" and all(c.phase == "ready" for c in self._children):
                    self._phase = "ready"
                    self._publish()
                self._stop.wait(_TICK_S)
            for number in self._told[:1]:
                logger.info("told to stop", extra={"signal": number})
        finally:
            self._stop_all()
        return not self._problem

    def _told_to_stop(self, number: int, _frame: FrameType | None) -> None:
        # No more than this: what it interrupts may hold any lock, that of the log as well.
        self._told.append(number)
        self._stop.set()

    def _step(self, child: Child) -> None:
        now = time.monotonic()
        if child.phase in ("starting", "ready") and child.process is not None:
            code = child.process.poll()
            if code is not None:
                self._failed(child, how_it_ended(code))
            elif child.phase == "starting" and child.answer:
                missing = child.answer[0]
                if missing is None:
                    self._became_ready(child, now)
                else:
                    self._failed(child, missing)
            elif child.phase == "ready":
                self._watch_log(child)
                if child.failures and now - (child.ready_at or now) > self._policy.stable_s:
                    child.failures = 0
        elif (child.phase == "waiting" and self._needs_are_ready(child)) or (
            child.phase == "backing off" and now >= child.start_at
        ):
            self._start(child, now)

    def _needs_are_ready(self, child: Child) -> bool:
        ours = {other.member.name: other for other in self._children}
        return all(need not in ours or ours[need].phase == "ready" for need in child.member.needs)

    def _start(self, child: Child, now: float) -> None:
        launch = child.launch
        child.began, child.answer, child.phase = now, [], "starting"
        try:
            for port, variable in launch.ports.items():
                if port not in self._ports_beside(child):
                    require_free_port(launch.host, port, launch.name, variable)
            launch.before_start()
            with log_file(self._settings.run_dir, launch.name).open("ab") as log:
                child.process = spawn(launch, log, self._environment)
        except (RecsysError, OSError, subprocess.SubprocessError) as error:
            self._failed(child, str(error))
            return
        child.pid_started_s = process_started_s(child.process.pid)
        threading.Thread(target=ask, args=(child, child.process, child.answer), daemon=True).start()
        self._publish()

    def _ports_beside(self, child: Child) -> set[int]:
        """Give the ports of other children that run: workers of one server share theirs."""
        running = [c for c in self._children if c is not child and c.process is not None]
        return {port for other in running for port in other.launch.ports}

    def _became_ready(self, child: Child, now: float) -> None:
        child.phase, child.ready_at, child.was_ready = "ready", now, True
        child.took_s, child.problem = now - child.began, ""
        self._endpoints = self._endpoints.model_copy(update=child.member.publishes)
        write_endpoints(self._settings, self._endpoints)
        logger.info(
            "server ready",
            extra={"server": child.launch.name, "took_ms": round(child.took_s * 1000)},
        )
        self._publish()

    def _failed(self, child: Child, problem: str) -> None:
        if child.process is not None:
            if child.process.poll() is None:
                stop(child.process, child.launch.stop_grace_s)
            kill_group(child.process.pid)  # what it started may have outlived it
        child.process, child.pid_started_s = None, None
        child.problem = problem
        child.failures += 1
        if not child.was_ready and child.failures >= _NEVER_STARTED_LIMIT:
            child.phase = "failed"
            self._problem = self._explain(child)
            self._stop.set()
            return
        child.restarts += 1
        CHILD_RESTARTS.labels(server=child.launch.name).inc()
        delay = self._policy.delay_s(child.failures)
        child.phase, child.start_at = "backing off", time.monotonic() + delay
        logger.warning(
            "server ended, starting it again",
            extra={"server": child.launch.name, "problem": problem, "delay_s": delay},
        )
        self._publish()

    def _explain(self, child: Child) -> str:
        path = log_file(self._settings.run_dir, child.launch.name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        said = "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])
        return (
            f"{child.launch.name} wanted to start, found {_NEVER_STARTED_LIMIT} times: "
            f"{child.problem}; its last lines (more: recsys logs {child.launch.name}):{said}"
        )

    def _stop_all(self) -> None:
        self._phase = "failed" if self._problem else "stopping"
        self._publish()
        # What nobody needs ends at once, on servers that still run; each of those then in turn.
        needed = {name for child in self._children for name in child.member.needs}
        for child in self._children:
            if child.process is not None and child.member.name not in needed:
                ask_to_stop(child.process)
        for child in reversed(self._children):
            if child.process is not None:
                if child.member.name in needed:
                    ask_to_stop(child.process)
                await_stop(child.process, child.launch.stop_grace_s)
                child.process, child.pid_started_s = None, None
            if child.phase != "failed":
                child.phase = "stopped"
            self._publish()
        endpoints_file(self._settings).unlink(missing_ok=True)

    def _watch_log(self, child: Child) -> None:
        path = log_file(self._settings.run_dir, child.launch.name)
        with contextlib.suppress(OSError):
            if path.stat().st_size > self._policy.log_limit_bytes:
                # The server writes by appending, so it goes on at the new end. What it writes
                # between the two steps is lost: these are logs.
                kept = path.read_bytes()[-self._policy.log_limit_bytes // 4 :]
                path.with_suffix(".log.1").write_bytes(kept)
                os.truncate(path, 0)

    def _publish(self) -> None:
        children = {child.member.name: child for child in self._children}
        servers = [state_of(member, children.get(member.name)) for member in self._plan]
        state = SupervisorState(
            pid=os.getpid(),
            phase=self._phase,
            started_ms=self._started_ms,
            problem=self._problem,
            servers=servers,
        )
        write_state(self._settings.run_dir, state)
        if self._on_change is not None:
            self._on_change(state)
