"""The demo's story: each stage is a `recsys` command or a request that a user could send.

Everything lives in ``<state_dir>/demo``, which is emptied at the start: a demo that was killed
leaves nothing that the next one trips over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from recsys.client import API_KEY_VARIABLE, Client, ClientConfig
from recsys.clock import now_ms
from recsys.demo.click import show_click
from recsys.demo.memory import MARK, PeakMemory, marked_processes
from recsys.demo.people import STRANGER, show_recommendations, users_by_activity
from recsys.demo.stages import Stages
from recsys.demo.world import RETAIL, choose_world
from recsys.errors import ConfigurationError, RecsysError
from recsys.security.listening import callers_are_asked, key_file
from recsys.security.scopes import SCOPES
from recsys.settings import Settings

_LOG_WIDTH = 110
"""Columns of the tables where the output is no terminal."""
_OWNED_BY_DEMO = "made-by-recsys-demo"
"""A file of this name says that the folder may be emptied."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recsys demo", description="From an empty folder to live recommendations."
    )
    parser.add_argument("--data", choices=["auto", RETAIL, "simulated"], default="auto")
    parser.add_argument("--keep", action="store_true", help="leave the system running at the end")
    parser.add_argument("--rate", type=float, default=40.0, help="load test, requests per second")
    parser.add_argument("--duration", type=float, default=8.0, help="load test, seconds")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Play the demo. Gives 0 when every stage worked and nothing was left behind."""
    args = parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    settings = Settings()
    state_dir = (settings.state_dir / "demo").resolve()
    run_id = uuid.uuid4().hex
    environment = {
        **os.environ,
        "COLUMNS": str(console.width),  # the commands' tables are as wide as ours
        MARK: run_id,
        "RECSYS_STATE_DIR": str(state_dir),
        "RECSYS_DATA_DIR": str(settings.data_dir.resolve()),
        **_free_ports(settings),
        "RECSYS_ADMIN_PORT": "0",  # one port fewer that another system may have
    }
    # A polite kill stops what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    stages = Stages(console=console, environment=environment)
    _empty(state_dir, stages)
    if callers_are_asked(settings):
        keys = key_file(settings.model_copy(update={"state_dir": state_dir}))
        environment[API_KEY_VARIABLE] = keys.create(SCOPES, owner="recsys demo").text
    with PeakMemory(run_id) as memory:
        try:
            play(args, stages, settings, state_dir)
        except BaseException:
            stages.run("down")
            raise
        if args.keep:
            console.print(_how_to_stop(environment))
        else:
            with stages.stage("down", "every server is stopped"):
                stages.run("down")
    left = [] if args.keep else marked_processes(run_id)
    stages.summary(
        [
            ("peak memory of all processes", f"{memory.peak_bytes / 2**30:.2f} GiB"),
            ("processes left", str(len(left)) if not args.keep else "running (--keep)"),
        ]
    )
    if left:
        names = ", ".join(f"{process.pid} {process.name()}" for process in left)
        raise RecsysError(f"wanted no process left, found {names}; stop them with `kill`")
    return 0


def play(args: argparse.Namespace, stages: Stages, settings: Settings, state_dir: Path) -> None:
    """Run the stages up to the addresses at the end."""
    console = stages.console
    world = choose_world(settings, console, now_ms=now_ms(), name=args.data)
    console.print(f"[bold]world[/bold]: {world.about}")
    addresses = {
        name: stages.environment[name]
        for field in Settings.model_fields.values()
        if (name := field.alias or "") in stages.environment
    }
    demo_settings = Settings.model_validate(addresses)
    scheme = "http" if demo_settings.tls_certfile is None else "https"
    api_url = f"{scheme}://{demo_settings.api_host_in_force}:{demo_settings.api_port}"
    patience = ClientConfig(api_key=stages.environment.get(API_KEY_VARIABLE))
    with (
        stages.stage(
            "servers", "Redis, Kafka, Triton, the worker and the API start; feature_repo is applied"
        ),
        _beside(stages, "features", "apply"),
    ):
        stages.run("up")
    with stages.stage("replay", "history goes through Kafka; features land in Redis"):
        if world.name == RETAIL:
            stages.run("replay", RETAIL, "--shift-ms", str(world.shift_ms))
        else:
            stages.run("simulate", "--preset", "demo", "--world-start", "recent", "--to-kafka")
        stages.run("lag", "--wait")
    with stages.stage("train", "point-in-time examples, two towers, ranker, evaluation (Ray)"):
        stages.run(
            "train", "--no-tracking", "--recipe", "demo", "--dataset", world.name,
            "--shift-ms", str(world.shift_ms), capture=True,
        )  # fmt: skip
    with stages.stage("publish", "the bundle becomes Triton models; the pointer moves"):
        stages.run("publish", capture=True)
    with stages.stage("recommend", "three users ask"):
        users = users_by_activity(demo_settings)
        regular, average = users[len(users) // 50], users[len(users) // 2]
        with Client(api_url, patience) as client:
            show_recommendations(console, client, [regular, average, STRANGER])
    with (
        stages.stage("click", "one click, and the next answer"),
        Client(api_url, patience) as client,
    ):
        show_click(console, client, average, click_type=world.click_type)
    with stages.stage("load test", "open loop: latency counts from the intended send time"):
        user_file = state_dir / "loadtest_users.txt"
        user_file.write_text("\n".join(users))
        result = stages.run(
            "loadtest", "--url", api_url, "--rate", str(args.rate),
            "--duration", str(args.duration), "--users", str(user_file),
            "--html", str(state_dir / "loadtest.html"), capture=True,
        )  # fmt: skip
        (state_dir / "loadtest.json").write_text(json.dumps(json.loads(result), indent=1))
    console.print(f"API docs [link]{api_url}/docs[/link]   metrics [link]{api_url}/metrics[/link]")


@contextmanager
def _beside(stages: Stages, *command: str) -> Iterator[None]:
    """Run a command while the body runs; wait for it, and fail if it failed."""
    failed: list[RecsysError] = []

    def run() -> None:
        try:
            stages.run(*command)
        except RecsysError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=" ".join(command))
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def _empty(state_dir: Path, stages: Stages) -> None:
    marker = state_dir / _OWNED_BY_DEMO
    if state_dir.exists():
        if not marker.is_file() and any(state_dir.iterdir()):
            raise ConfigurationError(
                f"wanted an empty folder or one an earlier demo made, found {state_dir} with "
                "other files; move it away or set RECSYS_STATE_DIR"
            )
        stages.run("down")
        shutil.rmtree(state_dir)
    state_dir.mkdir(parents=True)
    marker.touch()


def _free_ports(settings: Settings) -> dict[str, str]:
    """Give ports for the demo: the configured ones when free, so that it never disturbs a system
    that is already up, others when not.
    """
    wanted = {
        "RECSYS_API_PORT": (settings.api_port, 1),
        "RECSYS_WORKER_METRICS_PORT": (settings.worker_metrics_port, 1),
        "RECSYS_REDIS_PORT": (settings.redis_port, 1),
        "RECSYS_KAFKA_PORT": (settings.kafka_port, 2),
        "RECSYS_TRITON_GRPC_PORT": (settings.triton_grpc_port, 3),
    }
    chosen = {}
    for name, (first, num_ports) in wanted.items():
        port = first
        while not all(_is_free(settings.host, port + n) for n in range(num_ports)):
            port += 10
        chosen[name] = str(port)
    return chosen


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _how_to_stop(environment: dict[str, str]) -> str:
    state_dir = environment["RECSYS_STATE_DIR"]
    return f"still running; stop it with `RECSYS_STATE_DIR={state_dir} recsys down`"


if __name__ == "__main__":
    sys.exit(main())
