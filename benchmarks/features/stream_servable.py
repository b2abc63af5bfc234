"""How soon events are servable while the stream worker has half of what it can do.

Usage::

    python -m benchmarks.features.stream_servable [--events 60000] [--users 10000] [--seconds 30]
                                                  [--share 0.5]

Needs a Kafka and a Redis, as ``stream_rate``. First a real worker process reads ``--events`` that
wait for it: its greatest rate. Then a process of its own sends events at ``--share`` of that rate
for ``--seconds``, open loop: each has a moment at which it is due, which is its event time, and
none waits for the worker or for one before it. So what a pause of any of them delays is counted for
every event that it delays. The waits are read in two ways:

- the worker's histograms count every event: what is given is the bucket of the percentile, its
  upper bound; ``since_event`` counts from when it was due, ``since_append`` from the log's receipt;
- tracers (``recsys features probe``) are read as serving reads, a few a second for each view.

Prints one line of JSON. All of it shares this machine's cores with Kafka and Redis.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.features.stream_rate import NUM_ITEMS, fill, remove_features
from recsys.clock import now_ms
from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError, ServerError
from recsys.events.codec import encode
from recsys.events.kafka import connect_writer, delete_topics, ensure_topics
from recsys.events.schema import InteractionEvent
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features.lag import measure_lag
from recsys.features.plan import Plan
from recsys.features.quality.probe import Probe, Trace
from recsys.features.quality.probe_cli import summary
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings

_SLICE_S = 0.005
"""Events that fall due meanwhile are sent together."""
_PATIENCE_S = 300.0
_HISTOGRAMS = {
    "since_event": "recsys_event_to_servable_seconds",
    "since_append": "recsys_append_to_servable_seconds",
}
Buckets = dict[str, Counter[float]]
"""By histogram: how many events lie in the bucket with this upper bound, of all views."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.stream_servable")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.5)
    arguments = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(
                RECSYS_NAMESPACE=f"bench{uuid.uuid4().hex[:8]}", RECSYS_STATE_DIR=Path(folder)
            )
            report = measure(settings, resolve(Settings()), arguments)
    except RecsysError as error:
        sys.stderr.write(f"stream_servable: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def measure(
    settings: Settings, endpoints: Endpoints, arguments: argparse.Namespace
) -> dict[str, object]:
    """Find the greatest rate, then measure at a share of it."""
    topics = Topics(namespace=settings.namespace)
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    ensure_topics(settings, endpoints, topics.all())
    worker: subprocess.Popen[bytes] | None = None
    try:
        fill(settings, endpoints, topics, arguments.events, arguments.users)
        worker = _start_worker(settings, endpoints)
        rate, cpu_share = _greatest_rate(settings, endpoints, worker)
        before = _buckets(settings)
        process = psutil.Process(worker.pid)
        began_s, began_cpu_s = time.monotonic(), _cpu_seconds(process)
        sender = multiprocessing.get_context("spawn").Process(
            target=send,
            args=(settings, endpoints, rate * arguments.share, arguments.seconds, arguments.users),
        )
        sender.start()
        traces = _probe(settings, endpoints, plan, sender)
        sender.join()
        _wait_applied(settings, endpoints, worker)
        cores = (_cpu_seconds(process) - began_cpu_s) / (time.monotonic() - began_s)
        counted = {name: found - before[name] for name, found in _buckets(settings).items()}
    finally:
        if worker is not None:
            worker.terminate()
            worker.wait(30)
        delete_topics(settings, endpoints, topics.all())
        remove_features(endpoints.require_redis(), settings.namespace)
    if sender.exitcode:
        raise ServerError("the events could not be sent at this rate; see above")
    return {
        "benchmark": "stream_servable",
        "users": arguments.users,
        "greatest_events_per_second": round(rate),
        "worker_cores_at_greatest_rate": round(cpu_share, 2),
        "events_per_second": round(rate * arguments.share),
        "worker_cores": round(cores, 2),
        "at_most_seconds": {
            name: {f"p{p}": bound(found, p) for p in (50, 90, 99)}
            for name, found in counted.items()
        },
        "histogram": {
            name: {str(upper): count for upper, count in sorted(found.items()) if count}
            for name, found in counted.items()
        },
        "tracers": {
            row.view: {"lost": row.num_lost, "since_event": row.event_s} for row in summary(traces)
        },
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def send(
    settings: Settings, endpoints: Endpoints, rate: float, seconds: float, num_users: int
) -> None:
    """Send clicks and purchases, ``rate`` a second, each when it is due or as soon after as can be.

    Raises:
        ServerError: when the log does not take them.
    """
    rng = np.random.default_rng(2)
    total = int(rate * seconds)
    users = rng.integers(0, num_users, total).tolist()
    items = (rng.zipf(1.3, total) % NUM_ITEMS).tolist()
    topics = Topics(namespace=settings.namespace)
    writer = connect_writer(settings, endpoints)
    began_s, began_ms, sent = time.monotonic(), now_ms(), 0
    while sent < total:
        due = min(total, int((time.monotonic() - began_s) * rate))
        for n in range(sent, due):
            event = InteractionEvent(
                event_id=f"open{n}", event_time_ms=began_ms + int(n * 1000 / rate),
                user_id=f"u{users[n]}", item_id=f"i{items[n]}",
                type="click" if n % 7 else "purchase",
            )  # fmt: skip
            topic, key = topics.route(event)
            writer.append(topic, key, encode(event))
        sent = due
        time.sleep(_SLICE_S)
    writer.close()


def bound(found: Counter[float], percentile: float) -> float | None:
    """Give the upper bound of the bucket that a percentile lies in; ``None`` when it has none."""
    left = math.ceil(found.total() * percentile / 100)
    for upper in sorted(found) if left else ():
        left -= found[upper]
        if left <= 0:
            return upper if math.isfinite(upper) else None
    return None


def _start_worker(settings: Settings, endpoints: Endpoints) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RECSYS_STATE_DIR": str(settings.state_dir),
        "RECSYS_NAMESPACE": settings.namespace,
        "RECSYS_PARTITIONS": str(settings.num_partitions),
        "RECSYS_WORKER_METRICS_PORT": str(settings.worker_metrics_port),
        "KAFKA_BOOTSTRAP_SERVERS": endpoints.require_kafka(),
        "REDIS_URL": endpoints.require_redis(),
    }
    with (settings.state_dir / "worker.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "serving.stream_worker"], env=environment, stderr=log
        )


def _greatest_rate(
    settings: Settings, endpoints: Endpoints, worker: subprocess.Popen[bytes]
) -> tuple[float, float]:
    """Give events a second from the first that was applied to the last, and the cores it took."""
    process = psutil.Process(worker.pid)
    total = left = _num_unapplied(settings, endpoints)
    while left == total:
        _see_alive(settings, worker)
        time.sleep(0.02)
        left = _num_unapplied(settings, endpoints)
    at_first, began_s, began_cpu_s = left, time.monotonic(), _cpu_seconds(process)
    _wait_applied(settings, endpoints, worker)
    spent_s = time.monotonic() - began_s
    if at_first < total / 2:
        raise ServerError("wanted to see the worker at work, found it done: raise --events")
    return at_first / spent_s, (_cpu_seconds(process) - began_cpu_s) / spent_s


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _num_unapplied(settings: Settings, endpoints: Endpoints) -> int:
    return sum(lag.num_unapplied for lag in measure_lag(settings, endpoints))


def _wait_applied(
    settings: Settings, endpoints: Endpoints, worker: subprocess.Popen[bytes]
) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while left := _num_unapplied(settings, endpoints):
        _see_alive(settings, worker)
        if time.monotonic() > end_s:
            raise ServerError(f"{left} events are not applied after {_PATIENCE_S:g} s")
        time.sleep(0.05)


def _see_alive(settings: Settings, worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is not None:
        said = (settings.state_dir / "worker.log").read_text(errors="replace")[-1000:]
        raise ServerError(f"the worker ended with {worker.returncode}: {said}")


def _probe(
    settings: Settings,
    endpoints: Endpoints,
    plan: Plan,
    sender: multiprocessing.process.BaseProcess,
) -> list[Trace]:
    traces: list[Trace] = []
    hashes = RedisHashes(endpoints.require_redis())
    writer = connect_writer(settings, endpoints)
    try:
        probe = Probe(plan, writer, hashes)
        probe.prepare()
        while sender.is_alive():
            traces += probe.round()
            time.sleep(0.1)
    finally:
        writer.close()
        hashes.close()
    return traces


def _buckets(settings: Settings) -> Buckets:
    url = f"http://{settings.host}:{settings.worker_metrics_port}/metrics"
    try:
        shown = httpx.get(url, timeout=10).text
    except httpx.HTTPError as error:
        raise ServerError(f"wanted the worker's metrics at {url}, found {error}") from error
    at_most: dict[str, Counter[float]] = {name: Counter() for name in _HISTOGRAMS}
    for family in text_string_to_metric_families(shown):
        for name, metric in _HISTOGRAMS.items():
            if family.name == metric:
                for sample in family.samples:
                    if sample.name.endswith("_bucket"):
                        at_most[name][float(sample.labels["le"])] += int(sample.value)
    return {name: _apart(found) for name, found in at_most.items()}


def _apart(at_most: Counter[float]) -> Counter[float]:
    uppers = sorted(at_most)
    below = [0, *(at_most[upper] for upper in uppers)]
    return Counter({u: below[n + 1] - below[n] for n, u in enumerate(uppers)})


if __name__ == "__main__":
    sys.exit(main())
