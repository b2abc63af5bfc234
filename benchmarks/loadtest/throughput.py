"""``python -m benchmarks.loadtest.throughput``: the greatest rate with p99 in 50 ms, and its cost.

Usage::

    python -m benchmarks.loadtest.throughput prepare --state DIR [--items 10000] [--workers 1]
    python -m benchmarks.loadtest.throughput peer --state DIR     # the service in one process
    python -m benchmarks.loadtest.throughput ours --state DIR [--sources towers|default]
    python -m benchmarks.loadtest.throughput down --state DIR

``prepare`` starts a system of its own (``recsys up`` on free ports), makes untrained bundles, sends
made-up behaviour through Kafka and copies the features for Feast's own store. Each measurement
searches the greatest rate (Poisson arrivals, p99 within the limit, every answer from the rung
``full``) and prints one JSON result. The generator, all servers and the peer share the machine;
while the peer is measured, everything of ours but Redis stands still (SIGSTOP).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.loadtest.feature_keys import feature_keys
from benchmarks.loadtest.greatest_rate import Limit, Step, measure_step
from benchmarks.loadtest.kernels import kernel_ms_of_calls, kernel_times
from benchmarks.loadtest.model_calls import between, model_calls
from benchmarks.loadtest.overhead import overhead
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.stretch import Asking
from benchmarks.loadtest.system import (
    SERVERS,
    Behaviour,
    System,
    fill,
    find_system,
    free_ports,
    item_positions,
    make_system,
    user_id,
    wait_http,
)
from benchmarks.loadtest.untrained_bundle import TOWERS_ONLY, add_untrained_bundle
from recsys.errors import RecsysError
from recsys.features import current_plan
from recsys.models.config import SourceMix
from recsys.wakefulness import cores_wake_within_us

MIXES = {"towers": TOWERS_ONLY, "default": SourceMix()}
_PEER = "benchmarks.peers.one_process.service"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part; 0 when done, 1 with one line when it cannot be."""
    options = _parser().parse_args(argv)
    try:
        result = options.run(options)
    except RecsysError as error:
        sys.stderr.write(f"throughput: {error}\n")
        return 1
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest.throughput")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("prepare", prepare), ("peer", peer), ("ours", ours), ("down", down)):
        command = commands.add_parser(name)
        command.add_argument("--state", type=Path, required=True, help="folder of the system")
        command.set_defaults(run=run)
        if name == "prepare":
            command.add_argument("--items", type=int, default=10_000)
            command.add_argument("--workers", type=int, default=1, help="API processes")
            command.add_argument("--seed", type=int, default=1)
        if name in ("peer", "ours"):
            command.add_argument("--start", type=float, default=0.0, help="first rate to try")
            command.add_argument("--rates", default="", help="measure these, no search")
            command.add_argument("--step", type=float, default=10.0, help="seconds of a step")
            command.add_argument("--p99", type=float, default=50.0, help="milliseconds")
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--no-kernels", action="store_true")
        if name == "peer":
            command.add_argument("--store", choices=("feast", "plugin"), default="feast")
            command.add_argument("--threads", type=int, default=2)
        if name == "ours":
            command.add_argument("--sources", choices=tuple(MIXES), default="towers")
    return parser


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Start the system and fill it."""
    from benchmarks.peers.one_process.plain_store import make_plain_store

    behaviour = Behaviour(seed=options.seed)
    system = make_system(options.state, {"RECSYS_API_WORKERS": str(options.workers)})
    system.run("up", "--only", ",".join(SERVERS))
    plan = current_plan.ensure(system.settings.state_dir, project=system.settings.namespace)
    fill(system, options.items, behaviour)
    # What the log said of items so far is no news to the bundles, or ours would take other vectors
    # and prices from it than the peers read from the bundle.
    known = item_positions(system)
    bundles = {
        name: add_untrained_bundle(
            system.settings.bundle_dir, plan, num_items=options.items, mix=mix, seed=options.seed,
            log_positions=known,
        )
        for name, mix in MIXES.items()
    }  # fmt: skip
    system.run("features", "apply")
    os.environ.update(system.feast_variables())
    users = [user_id(n) for n in range(behaviour.num_users)]
    make_plain_store(
        system.settings.state_dir / "feature_store.yaml",
        options.state / "plain",
        feature_keys(users, options.items),
    )
    record = {"bundles": bundles, "items": options.items, "users": behaviour.num_users}
    (options.state / "prepared.json").write_text(json.dumps(record))
    return record


def down(options: argparse.Namespace) -> None:
    """Stop the system; its folder stays."""
    find_system(options.state).run("down")


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the running system."""
    system, record = _found(options)
    bundle_id = record["bundles"][options.sources]
    system.run("publish", bundle_id)
    system.find_processes()
    asking = _asking(options, record, system.settings.api_port)
    result: dict[str, Any] = {"overhead": overhead(asking, system)}
    calls: dict[float, dict[float, float]] = {}

    def measure(rate: float, limit: Limit) -> Step:
        before = model_calls(system.url)
        step = measure_step(asking, rate, limit, system.cpu_s)
        calls[step.rate] = between(before, model_calls(system.url))
        return step

    steps = _steps(options, measure, start=options.start or 100.0)
    result["rss_mib"] = {name: size["rss_mib"] for name, size in system.sizes().items()}
    result["cpu_ms_a_request"] = {str(step.rate): _cost(step) for step in steps}
    result["model_calls_by_users"] = {str(rate): found for rate, found in calls.items()}
    if not options.no_kernels:
        kernels = kernel_times(system.settings.bundle_dir / bundle_id)
        result["kernel_ms_a_user"] = kernels
        result["cpu_over_kernels"] = {
            str(step.rate): _over_kernels(_cost(step)["all"], kernels, calls[step.rate])
            for step in steps
        }
    return _report(options, record, steps, result | {"sources": options.sources})


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the service in one process."""
    system, record = _found(options)
    with (
        system.paused(but=("redis",)),
        _peer_process(options, system, record) as (process, port),
    ):

        def cpu_s() -> dict[str, float]:
            times = process.cpu_times()
            return {"peer": times.user + times.system}

        asking = _asking(options, record, port)
        steps = _steps(
            options,
            lambda rate, limit: measure_step(asking, rate, limit, cpu_s),
            start=options.start or 8.0,
        )
        rss_mib = round(process.memory_info().rss / 2**20, 2)
    more = {"store": options.store, "threads": options.threads, "rss_mib": {"peer": rss_mib}}
    return _report(options, record, steps, more)


def _found(options: argparse.Namespace) -> tuple[System, dict[str, Any]]:
    system = find_system(options.state)
    record: dict[str, Any] = json.loads((options.state / "prepared.json").read_text())
    return system, record


def _asking(options: argparse.Namespace, record: dict[str, Any], port: int) -> Asking:
    users = tuple(user_id(n) for n in range(record["users"]))
    return Asking(host="127.0.0.1", port=port, user_ids=users, seed=options.seed)


@contextlib.contextmanager
def _peer_process(
    options: argparse.Namespace, system: System, record: dict[str, Any]
) -> Iterator[tuple[psutil.Process, int]]:
    port = free_ports(1)
    folder = options.state / "plain" if options.store == "feast" else system.settings.state_dir
    command = [
        sys.executable, "-m", _PEER, "--port", str(port), "--threads", str(options.threads),
        "--bundle", str(system.settings.bundle_dir / record["bundles"]["towers"]),
        "--feast", str(folder / "feature_store.yaml"),
    ]  # fmt: skip
    log = options.state / "peer.log"
    environment = system.environment | system.feast_variables()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_http(f"http://127.0.0.1:{port}", process, log, timeout_s=900.0)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(20)


def _steps(
    options: argparse.Namespace, measure_rate: Callable[[float, Limit], Step], *, start: float
) -> list[Step]:
    limit = Limit(p99_ms=options.p99, step_s=options.step)

    def measure(rate: float) -> Step:
        return measure_rate(rate, limit)

    def report(step: Step) -> None:
        said = "kept" if step.kept else step.refused
        sys.stderr.write(
            f"{step.rate:8.1f}/s  p50 {step.p50_ms:7.2f}  p95 {step.p95_ms:7.2f}  "
            f"p99 {step.p99_ms:7.2f} ms  {said}\n"
        )

    if options.rates:
        steps = [measure(float(rate)) for rate in options.rates.split(",")]
        for step in steps:
            report(step)
        return steps
    return find_greatest(measure, start=start, tolerance=limit.tolerance, report=report)


def _cost(step: Step) -> dict[str, float]:
    """Give CPU milliseconds a request by part at one rate; ``all`` leaves the generator out."""
    return step.cpu_ms | {"generator": round(1e3 * step.generator_cpu_s / step.sent, 3)}


def _over_kernels(
    cpu_ms: float, kernels: Mapping[str, float], calls: Mapping[float, float]
) -> dict[str, float]:
    """Give CPU a request as a multiple of the kernels': in calls as they were, alone, at best."""
    return {
        "in_calls_as_they_were": round(cpu_ms / kernel_ms_of_calls(kernels, calls), 2),
        "alone": round(cpu_ms / kernels["1"], 2),
        "in_the_best_calls": round(cpu_ms / min(kernels.values()), 2),
    }


def _report(
    options: argparse.Namespace, record: dict[str, Any], steps: list[Step], more: dict[str, Any]
) -> dict[str, Any]:
    best = greatest(steps)
    packages = ("torch", "feast", "faiss-cpu", "uvicorn", "fastapi", "numpy", "grpcio")
    return {
        "benchmark": f"loadtest.throughput {options.command}",
        "items": record["items"],
        "greatest_rate_per_s": best.rate if best else None,
        "p99_limit_ms": options.p99,
        **more,
        "steps": [step.as_json() for step in steps],
        "seed": options.seed,
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {
            "cores": os.cpu_count(),
            "amx": "amx" in torch.backends.cpu.get_cpu_capability().lower(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "load_before": round(os.getloadavg()[2], 2),
            "cores_wake_within_us": cores_wake_within_us(),
        },
        "measured_at": int(time.time()),
    }


if __name__ == "__main__":
    sys.exit(main())
