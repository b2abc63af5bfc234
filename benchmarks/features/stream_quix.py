"""The same user windows in Quix Streams and in our worker, on the same topic, in turns.

Usage::

    python -m benchmarks.features.stream_quix [--events 20000] [--users 2000] [--rounds 3]

Needs a Kafka and a Redis (``recsys up --only redis,kafka``). Twenty features of a user: count, sum,
mean, minimum and maximum over an hour by five minutes, a day by hours, a week and a month by days.
Ours are written to Redis and the event log; Quix Streams only keeps its state
(``benchmarks/peers/quix_streams/job.py`` says its settings). It is also timed on one bucket for
each window, which is less work and another meaning. Prints one line of JSON.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.stream_quix")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    try:
        report = _measure(arguments.events, arguments.users, arguments.rounds)
    except RecsysError as error:
        sys.stderr.write(f"stream_quix: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _measure(num_events: int, num_users: int, num_rounds: int) -> dict[str, object]:
    settings = Settings(RECSYS_NAMESPACE=f"bench{uuid.uuid4().hex[:8]}")
    endpoints = resolve(Settings())
    python = python_of("quix_streams", settings.state_dir)
    topics = Topics(namespace=settings.namespace)
    ensure_topics(settings, endpoints, topics.all())
    took: dict[str, list[tuple[float, float]]] = {"ours": [], "quix": [], "quix_tumbling": []}
    try:
        fill(settings, endpoints, topics, num_events, num_users, impressions=False)
        bootstrap = endpoints.require_kafka()
        for _ in range(num_rounds):
            with tempfile.TemporaryDirectory() as folder:
                plan = plan_of(settings.namespace)
                took["ours"].append(worker_seconds(settings, endpoints, plan, Path(folder)))
            for name, more in (("quix", []), ("quix_tumbling", ["--tumbling"])):
                with tempfile.TemporaryDirectory() as folder:
                    took[name].append(
                        _quix(python, bootstrap, topics.behaviour, num_events, folder, more)
                    )
    finally:
        delete_topics(settings, endpoints, topics.all())
    rates = {
        name: round(num_events / statistics.median(cpu_s for cpu_s, _ in seconds))
        for name, seconds in took.items()
    }
    return {
        "benchmark": "stream_quix",
        "events": num_events,
        "users": num_users,
        "features": len(WINDOWS) * len(FUNCTIONS),
        "events_per_cpu_second": rates,
        "ratio": round(rates["ours"] / rates["quix"], 1),
        "ratio_to_tumbling": round(rates["ours"] / rates["quix_tumbling"], 1),
        "rounds": num_rounds,
    }


def _quix(
    python: Path, bootstrap: str, topic: str, num_events: int, state: str, more: list[str]
) -> tuple[float, float]:
    job = Path(__file__).parent.parent / "peers" / "quix_streams" / "job.py"
    command = [
        str(python), str(job), "--bootstrap", bootstrap, "--topic", topic,
        "--events", str(num_events), "--state", state, *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"wanted a run of Quix Streams, found: {done.stderr.strip()[-500:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return result["cpu_s"], result["wall_s"]


if __name__ == "__main__":
    sys.exit(main())
