"""The whole chain as an operator sees it: real Kafka, Redis, Triton and Ray, one simulated world.

Events of six days are sent to Kafka; the pipeline trains, publishes, and the API answers with the
new bundle. The same again does nothing. A day more: a new bundle goes live. It is rolled back, and
stays so. A day more: the run is killed (SIGKILL) in the middle, taken up, and its bundle goes live.
Somebody asks for recommendations all the while, and no request may fail.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from recsys.bundle.store import BundleStore
from recsys.errors import RecsysError
from recsys.events.event_log import scan
from recsys.events.topics import Topics
from tests import servers
from tests.end_to_end.system import System, start_system
from tests.training.pipeline.checked import Checks
from tests.training.pipeline.command import Command, environment

_FOREIGN = ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "TRITON_GRPC_URL", "RAY_ADDRESS")
_DAYS = 8
_WORLD = ("--users", "300", "--items", "200", "--days", str(_DAYS), "--to-kafka")
_TAKEN_UP_S = 60.0
"""The API looks at the pointer twice a second; loading takes longer on a busy machine."""


def check_whole_chain(root: Path, seed: int, checks: Checks) -> None:
    for variable in _FOREIGN:
        os.environ.pop(variable, None)
    servers.begin_session()
    system = start_system(root)
    try:
        began = time.monotonic()
        system.run("up")
        checks.figures["up_s"] = round(time.monotonic() - began)
        _story(root, system, seed, checks)
    finally:
        system.run("down")
        ports = [port for port in _ports(system) if not _is_free(system.settings.host, port)]
        checks.add("after `recsys down` no port is open", ports or "none", ok=not ports)
        leaks = servers.end_session(None)
        checks.add("and no process is left", leaks or "none", ok=not leaks)


def _story(root: Path, system: System, seed: int, checks: Checks) -> None:
    store = BundleStore(system.settings.bundle_dir)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start -= timedelta(days=_DAYS)
    draw = random.Random(seed)

    def send(*days: str) -> int:
        """Have events of some days of the world in the event log; give how many lie there."""
        world = ("--seed", str(seed), "--world-start", start.isoformat())
        system.run("simulate", "--preset", "demo", *_WORLD, *world, *days)
        system.run("lag", "--wait")
        return _log(system).select(pl.len()).collect().item()

    def answers(bundle_id: str) -> tuple[bool, str]:
        """Say whether the API serves a known user by ``bundle_id``, all its parts at work."""
        until, found = time.monotonic() + _TAKEN_UP_S, "no answer"
        with system.client() as client:
            while time.monotonic() < until:
                answer = client.recommend(user_id, k=10)
                found = f"bundle {answer.bundle}, rung {answer.rung}, {len(answer.items)} items"
                if (answer.bundle, answer.rung, len(answer.items)) == (bundle_id, "full", 10):
                    return True, found
                time.sleep(0.2)
        return False, found

    def run() -> Command:
        return Command(
            root, system.settings.state_dir, "--file", "pipeline.toml",
            environment=environment(**system.environment),
        )  # fmt: skip

    (root / "pipeline.toml").write_text(
        'recipe = "debug"\ndataset = "simulated"\npublish = "serve"\n'
        "[gate]\nbaselines = []\nchampion_margin = 1.0\nmax_calibration_error = 1.0\n"
    )
    num_events = send("--span", "6d")
    user_id = _busiest(system)

    first = run()
    code = first.end()
    one = _live(first)
    checks.add(
        f"{num_events:,} events: a bundle is made and live", f"exit code {code}, {one}",
        ok=code == 0 and one == store.live(),
    )  # fmt: skip
    checks.figures["first_run_s"] = round(time.monotonic() - first.began_s)
    ok, found = answers(one)
    checks.add("the API answers with it", found, ok=ok)

    with _Asking(system, user_id) as asking:
        again = run()
        code = again.end()
        started = again.of_kind("step_started")
        checks.add(
            "the same command again runs no step", f"exit code {code}, ran {started or 'none'}",
            ok=code == 0 and not started and _live(again) == one,
        )  # fmt: skip
        checks.figures["nothing_to_do_s"] = round(time.monotonic() - again.began_s)

        num_events = send("--skip", "6d", "--span", "1d")
        more = run()
        code = more.end()
        two = _live(more)
        ok, found = answers(two)
        checks.add(
            f"a day more ({num_events:,} events): a new bundle is live and answers", found,
            ok=code == 0 and ok and two not in ("none", one),
        )  # fmt: skip
        checks.say(_said_of_features(more))

        rolled = json.loads(system.run("bundle", "rollback"))["live"]
        ok, found = answers(one)
        checks.add("rolled back: the first answers", found, ok=ok and rolled == one)
        held = run()
        code = held.end()
        checks.add(
            "run again: what was rolled back stays back", f"live {store.live()}",
            ok=code == 0 and store.live() == one and not held.of_kind("step_started"),
        )  # fmt: skip

        num_events = send("--skip", "7d", "--span", "1d")
        killed = run()
        phase, epoch = draw.choice([("towers", 1), ("ranker", 1), ("towers again", 1)])
        killed.await_epoch(phase, epoch)
        killed.kill()
        checks.add(
            "killed in the middle: the live bundle is untouched", f"after {phase} epoch {epoch}",
            ok=store.live() == one,
        )  # fmt: skip
        status = system.run("pipeline", "status")
        checks.add(
            "`recsys pipeline status` says so", status.splitlines()[1].strip(),
            ok="goes on where it was" in status,
        )  # fmt: skip
        last = run()
        code = last.end()
        three = _live(last)
        ok, found = answers(three)
        remade = set(last.of_kind("step_started")) & set(killed.of_kind("step_done"))
        is_same = {e["run"] for e in killed.events()} == {e["run"] for e in last.events()}
        checks.add(
            f"the same command ({num_events:,} events): its bundle is live and answers", found,
            ok=code == 0 and ok and three not in ("none", one, two),
        )  # fmt: skip
        checks.add(
            "it was the killed run that went on, no finished step again", sorted(remade),
            ok=is_same and not remade,
        )  # fmt: skip
        checks.add("the killed run's Ray is gone", ok=killed.clean_within(20.0) is not None)
    checks.add(
        "no request failed meanwhile", f"{asking.num_asked} asked, {asking.problems[:2]}",
        ok=asking.num_asked > 0 and not asking.problems,
    )  # fmt: skip


class _Asking:
    """Somebody who asks for recommendations twice a second."""

    def __init__(self, system: System, user_id: str) -> None:
        self._system, self._user_id = system, user_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.num_asked = 0
        self.problems: list[str] = []

    def __enter__(self) -> _Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._system.client() as client:
            while not self._stop.wait(0.5):
                self.num_asked += 1
                try:
                    answer = client.recommend(self._user_id, k=10)
                except RecsysError as error:
                    self.problems.append(str(error))
                else:
                    if not answer.items:
                        self.problems.append(f"no item, rung {answer.rung}: {answer.degraded}")


def _log(system: System) -> pl.LazyFrame:
    topics = Topics(namespace=system.settings.namespace)
    return scan(system.settings.event_log_dir, [topics.behaviour])


def _busiest(system: System) -> str:
    acts = _log(system).filter(pl.col("kind") == "interaction")
    counted = acts.group_by("user_id").len().collect()
    return str(counted.sort(["len", "user_id"], descending=[True, False])["user_id"][0])


def _live(command: Command) -> str:
    lines = command.result().splitlines()
    return str(json.loads(lines[-1])["live"]) if lines else "none"


def _said_of_features(command: Command) -> str:
    return next((e["text"] for e in command.events() if "rules hold" in e.get("text", "")), "")


def _ports(system: System) -> list[int]:
    settings = system.settings
    kafka, triton = settings.kafka_port, settings.triton_grpc_port
    return [
        settings.redis_port, kafka, kafka + 1, triton, triton + 1, triton + 2, settings.api_port,
        settings.worker_metrics_port,
    ]  # fmt: skip


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) != 0
