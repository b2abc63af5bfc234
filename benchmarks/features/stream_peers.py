"""The same user windows in Quix Streams, Bytewax and our worker, on the same topic, in turns.

Usage::

    python -m benchmarks.features.stream_peers [--events 20000] [--users 2000] [--rounds 3]

Needs a Kafka and a Redis (``recsys up --only redis,kafka``). Twenty features of a user: count, sum,
mean, minimum and maximum over an hour by five minutes, a day by hours, a week and a month by days.
Ours are written to Redis and the event log; the others only keep their state (the jobs in
``benchmarks/peers`` say their settings). Each is also timed on one bucket for each window, which is
less work and another meaning, and Bytewax with buckets written by hand instead of its windows.
``--peers`` names the ways to run beside ours. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import mmh3

from benchmarks.features.stream_rate import fill, worker_seconds
from benchmarks.peers.environments import python_of
from benchmarks.peers.registry import PEERS
from benchmarks.peers.surroundings import surroundings
from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.endpoints import resolve
from recsys.errors import RecsysError, ServerError
from recsys.events.kafka import delete_topics, ensure_topics
from recsys.events.topics import Topics
from recsys.features.aggregation import Aggregate
from recsys.features.plan import Plan
from recsys.features.view import Feature, View
from recsys.settings import Settings

WINDOWS = (
    (HOUR_MS, 5 * MINUTE_MS), (DAY_MS, HOUR_MS), (7 * DAY_MS, DAY_MS), (30 * DAY_MS, DAY_MS),
)  # fmt: skip
FUNCTIONS = ("count", "sum", "mean", "min", "max")


def plan_of(project: str) -> Plan:
    """Give the twenty features as a plan."""
    aggregates = tuple(
        Aggregate(
            name=f"{function}_{window_ms // 1000}", column="interaction", function=function,
            window_ms=window_ms, slide_ms=slide_ms,
        )
        for window_ms, slide_ms in WINDOWS
        for function in FUNCTIONS
    )  # fmt: skip
    features = tuple(
        Feature(name=a.name, type="float32", field=mmh3.hash(f"windows:{a.name}", signed=False))
        for a in aggregates
    )
    view = View(
        name="windows", join_keys=("user_id",), features=features, ttl_ms=0, aggregates=aggregates
    )
    return Plan(project=project, views=(view,), services={}, definitions_hash="")


JOBS = Path(__file__).parent.parent / "peers"
WAYS: dict[str, tuple[str, list[str]]] = {
    "quix": ("quix_streams", ["--state", "{folder}"]),
    "quix_tumbling": ("quix_streams", ["--state", "{folder}", "--tumbling"]),
    "bytewax": ("bytewax", ["--how", "hopping"]),
    "bytewax_tumbling": ("bytewax", ["--how", "tumbling"]),
    "bytewax_buckets": ("bytewax", ["--how", "buckets"]),
}
"""By name: the peer, and the options of its job; ``{folder}`` is empty and for its state."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.stream_peers")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    arguments = parser.parse_args(argv)
    wanted = arguments.peers.split(",")
    unknown = sorted(set(wanted) - set(WAYS))
    if unknown:
        parser.error(f"wanted some of {', '.join(WAYS)}, found {', '.join(unknown)}")
    try:
        report = _measure(arguments.events, arguments.users, arguments.rounds, wanted)
    except RecsysError as error:
        sys.stderr.write(f"stream_peers: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _measure(
    num_events: int, num_users: int, num_rounds: int, wanted: list[str]
) -> dict[str, object]:
    settings = Settings(RECSYS_NAMESPACE=f"bench{uuid.uuid4().hex[:8]}")
    endpoints = resolve(Settings())
    pythons = {peer: python_of(peer, settings.state_dir) for peer in {WAYS[w][0] for w in wanted}}
    topics = Topics(namespace=settings.namespace)
    ensure_topics(settings, endpoints, topics.all())
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", *wanted)}
    try:
        fill(settings, endpoints, topics, num_events, num_users, impressions=False)
        bootstrap = endpoints.require_kafka()
        for _ in range(num_rounds):
            with tempfile.TemporaryDirectory() as folder:
                plan = plan_of(settings.namespace)
                took["ours"].append(worker_seconds(settings, endpoints, plan, Path(folder)))
            for name in wanted:
                peer, options = WAYS[name]
                with tempfile.TemporaryDirectory() as folder:
                    command = [
                        str(pythons[peer]), str(JOBS / peer / "job.py"),
                        "--bootstrap", bootstrap, "--topic", topics.behaviour,
                        "--events", str(num_events),
                        *(option.format(folder=folder) for option in options),
                    ]  # fmt: skip
                    took[name].append(_run(name, command))
    finally:
        delete_topics(settings, endpoints, topics.all())
    cpu = {name: [cpu_s for cpu_s, _ in seconds] for name, seconds in took.items()}
    return {
        "benchmark": "stream_peers",
        "events": num_events,
        "users": num_users,
        "features": len(WINDOWS) * len(FUNCTIONS),
        "events_per_cpu_second": {
            name: round(num_events / statistics.median(seconds)) for name, seconds in cpu.items()
        },
        "events_per_second": {
            name: round(num_events / statistics.median(wall_s for _, wall_s in seconds))
            for name, seconds in took.items()
        },
        "cpu_s": {name: [round(s, 3) for s in seconds] for name, seconds in cpu.items()},
        "times_ours": {name: _times(cpu[name], cpu["ours"]) for name in wanted},
        "rounds": num_rounds,
        "seed": 1,
        "versions": {p.name: p.version for p in PEERS if p.environment in pythons},
        **surroundings(),
    }


def _times(theirs: list[float], ours: list[float]) -> list[float]:
    """Give the median, the least and the greatest ratio of CPU time, round by round."""
    ratios = sorted(t / o for t, o in zip(theirs, ours, strict=True))
    return [round(r, 1) for r in (statistics.median(ratios), ratios[0], ratios[-1])]


def _run(name: str, command: list[str]) -> tuple[float, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"wanted a run of {name}, found: {done.stderr.strip()[-500:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return result["cpu_s"], result["wall_s"]


if __name__ == "__main__":
    sys.exit(main())
