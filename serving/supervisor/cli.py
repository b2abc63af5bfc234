"""``recsys up | down | status | logs``.

``up`` starts what is not the user's own (``REDIS_URL``, ``KAFKA_BOOTSTRAP_SERVERS``,
``TRITON_GRPC_URL``) and returns once everything answers. Exit codes: 0 fine, 1 running but
something is not ready, 2 an error with one line of explanation, 3 not running, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from recsys.errors import RecsysError, ServerError
from recsys.security.redaction import redact
from recsys.settings import Settings
from serving.supervisor.logs import show_logs
from serving.supervisor.state import (
    SupervisorState,
    read_state,
    running_supervisor,
    take_lock,
)
from serving.supervisor.table import print_json, print_table

NOT_READY, FAILED, NOT_RUNNING, INTERRUPTED = 1, 2, 3, 130
_POLL_S = 0.05
_SAY_HELLO_TIMEOUT_S = 20.0
"""From starting the supervisor to its first sign of life: a Python start with imports."""
_STOP_TIMEOUT_S = 75.0
"""All servers' graces together, with room; then the supervisor is killed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors we can explain are one line on standard error."""
    options = _parser().parse_args(arguments)
    # Written to a file or a pipe, a table's rows stay whole.
    console = Console(
        highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200
    )
    try:
        return int(options.run(options, Settings(), console))
    except RecsysError as error:
        sys.stderr.write(f"recsys {options.command}: {redact(str(error))}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recsys", description="The servers of this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start all servers and wait until they answer")
    up.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="redis,kafka,triton,stream,exposures,api: start these",
    )
    where = up.add_mutually_exclusive_group()
    where.add_argument(
        "--detach", action="store_true", help="return once all are ready (the default)"
    )
    where.add_argument("--foreground", action="store_true", help="stay, and stop all on Ctrl-C")
    up.add_argument("--supervise", action="store_true", help=argparse.SUPPRESS)
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop all servers that `up` started")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", help="show the servers; asks each whether it answers")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_status)
    logs = commands.add_parser("logs", help="show what the servers print")
    logs.add_argument("server", nargs="?", help="one of them, or `supervisor`; default: all")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("-n", "--lines", type=int, default=20, help="last lines to show (20)")
    logs.set_defaults(run=lambda o, s, c: show_logs(s.run_dir, o.server, o.lines, o.follow))
    return parser


def _up(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    if options.supervise:
        return _supervise(settings, only, None)
    if running_supervisor(settings.run_dir) is not None:
        return _already_up(settings, only, console)
    if options.foreground:
        return _supervise(settings, only, console)

    from serving.supervisor.leftovers import end_leftovers
    from serving.supervisor.plan import check_ports, make_plan

    with console.status("preparing servers") as spinner:

        def report(line: str) -> None:
            spinner.update(line)
            console.print(f"  {line}")

        # The supervisor does the same again; here its errors and downloads can be watched.
        plan = make_plan(settings, only, report)
        lock = take_lock(settings.run_dir)
        if lock is not None:  # nobody else: what is left here is dead weight
            with lock:
                for line in end_leftovers(settings):
                    console.print(f"  {line}")
                check_ports(plan)
    environment = dict(os.environ)
    if any(member.publishes.get("broker_profile") == "tansu" for member in plan):
        environment["RECSYS_BROKER"] = "tansu"  # found out here, at length; not once more
    log = settings.run_dir / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serving.supervisor",
                "up",
                "--supervise",
                "--only",
                ",".join(only),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    return _follow(settings, supervisor, console)


def _already_up(settings: Settings, only: Sequence[str], console: Console) -> int:
    state = read_state(settings.run_dir)
    if state is None or state.phase == "starting":
        console.print("another `recsys up` is starting servers here; waiting for it")
        return _follow(settings, None, console)
    running = [server.name for server in state.servers]
    lacking = sorted(set(only) - set(running)) if only else []
    if lacking:
        raise ServerError(
            f"wanted {', '.join(lacking)}, found only {', '.join(running)} running; "
            "run `recsys down` first, then start all that you need together"
        )
    console.print(f"already running (supervisor pid {state.pid})")
    print_table(console, state)
    return 0 if state.phase == "ready" else NOT_READY


def _follow(
    settings: Settings, supervisor: subprocess.Popen[bytes] | None, console: Console
) -> int:
    """Show servers as they become ready; give the exit code of ``up``."""
    shown: set[str] = set()
    began = time.monotonic()
    try:
        with console.status("starting servers") as spinner:
            while True:
                holder = running_supervisor(settings.run_dir)
                state = read_state(settings.run_dir)
                if supervisor is not None and supervisor.poll() is not None and holder is None:
                    return _explain_failure(settings, state)
                if supervisor is None and holder is None:
                    return _explain_failure(settings, state)
                if state is not None and holder == state.pid:
                    _say_news(console, state, shown)
                    busy = [s.name for s in state.servers if s.phase != "ready"]
                    spinner.update(f"starting {', '.join(busy)}")
                    if state.phase == "ready":
                        break
                elif time.monotonic() - began > _SAY_HELLO_TIMEOUT_S and holder is None:
                    raise ServerError(
                        f"the supervisor wanted to start, found no sign of it after "
                        f"{_SAY_HELLO_TIMEOUT_S:.0f} s; see `recsys logs supervisor`"
                    )
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        if supervisor is not None:
            console.print("interrupted: stopping what was started")
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(_STOP_TIMEOUT_S)
        raise
    if supervisor is not None:
        # It lives on after us; an exit code is nothing to wait for.
        supervisor.returncode = 0
    console.print(f"all ready after {time.monotonic() - began:.1f} s")
    print_table(console, state)
    return 0


def _say_news(console: Console, state: SupervisorState, shown: set[str]) -> None:
    for server in state.servers:
        if server.phase == "ready" and server.name not in shown and not server.external:
            shown.add(server.name)
            console.print(
                f"  {server.name} ready after {server.took_s or 0:.1f} s: {server.version}"
            )
        problem = f"{server.name}: {server.problem}"
        if server.problem and problem not in shown:
            shown.add(problem)
            console.print(f"  {problem}; trying again")


def _explain_failure(settings: Settings, state: SupervisorState | None) -> int:
    if state is not None and state.problem:
        raise ServerError(state.problem)
    log = settings.run_dir / "logs" / "supervisor.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    raise ServerError(
        "the supervisor wanted to start the servers, found that it ended: "
        f"{lines[-1] if lines else 'no word from it'}; see `recsys logs supervisor`"
    )


def _supervise(settings: Settings, only: Sequence[str], console: Console | None) -> int:
    """Be the supervisor: in the background, or (with a console) in this terminal."""
    from recsys.wakefulness import awake_within
    from serving.supervisor.daemon import Supervisor
    from serving.supervisor.leftovers import end_leftovers
    from serving.supervisor.plan import make_plan
    from serving.supervisor.structured_log import log_to_stderr

    lock = take_lock(settings.run_dir)
    if lock is None:
        raise ServerError(
            "wanted to supervise the servers here, found that supervisor "
            f"{running_supervisor(settings.run_dir)} does so already"
        )
    with lock:
        end_leftovers(settings)
        if console is None:
            log_to_stderr(logging.INFO)
        shown: set[str] = set()

        def report(line: str) -> None:
            if console is not None:
                console.print(f"  {line}")

        def on_change(state: SupervisorState) -> None:
            if console is not None:
                _say_news(console, state, shown)
                if state.phase == "ready" and "table" not in shown:
                    shown.add("table")
                    print_table(console, state)
                    console.print("Ctrl-C stops all")

        supervisor = Supervisor(settings, make_plan(settings, only, report), on_change=on_change)
        with awake_within(settings.cpu_latency_us):
            started = supervisor.run()
        state = read_state(settings.run_dir)
    if not started:
        raise ServerError(state.problem if state else "the servers could not be started")
    return 0


def _down(_options: argparse.Namespace, settings: Settings, console: Console) -> int:
    from serving.supervisor.leftovers import end_leftovers, wait_gone

    pid = running_supervisor(settings.run_dir)
    if pid is not None:
        with console.status("stopping servers"):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while running_supervisor(settings.run_dir) == pid and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if running_supervisor(settings.run_dir) == pid:
                os.kill(pid, signal.SIGKILL)
                while running_supervisor(settings.run_dir) == pid:
                    time.sleep(_POLL_S)
            wait_gone([pid])  # it lets go of the lock a moment before
    lock = take_lock(settings.run_dir) if settings.run_dir.is_dir() else None
    if lock is None:
        if settings.run_dir.is_dir():
            raise ServerError("another `recsys up` has just begun here; run `recsys down` again")
        console.print("nothing was running")
        return 0
    with lock:
        for line in end_leftovers(settings):
            console.print(f"  {line}")
    console.print("nothing was running" if pid is None else "all stopped")
    return 0


def _status(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    from serving.supervisor.live import look

    running = running_supervisor(settings.run_dir)
    state = read_state(settings.run_dir)
    if running is None or state is None:
        if options.json:
            print_json(None, {})
        elif state is not None and state.phase != "failed":
            console.print("not running: the supervisor was killed; `recsys up` starts again")
        else:
            console.print("not running; `recsys up` starts the servers")
        return NOT_RUNNING
    problems = look(settings, state)
    if options.json:
        print_json(state, problems)
    else:
        print_table(console, state, problems)
    return 0 if state.phase == "ready" and not any(problems.values()) else NOT_READY
