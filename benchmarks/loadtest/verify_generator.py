"""``make verify-generator``: does the open-loop generator measure what is known to be so?

Against a server of one worker and constant service time (``queue_server.py``), percentiles at 50,
80 and 95 % load are held to the M/D/1 queue (``md1.py``): to the queue's very course for the
arrivals that were sent, and to its steady state. A server that stands still for a second must show
it. Against one that answers at once, the greatest rate is sought that is sent in time by one core.

Each check prints a line of JSON; exit code 1 when a percentile is off by more than 5 %. Held to are
the arrivals that were sent: how far a minute of them is from the steady state is chance, so that
is printed beside them. Needs two cores with nothing else on them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import uvloop

from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.connection import prepare_post
from benchmarks.loadtest.md1 import sojourn_percentile, sojourns
from benchmarks.loadtest.paced import Paced, paced_http

LOADS = (0.5, 0.8, 0.95)
PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_WITHIN = 0.05
_LATE_MS = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Check; see above for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest.verify_generator")
    parser.add_argument("--service-ms", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--rate", type=float, default=5_000.0, help="a second, to be sent in time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    checks = [
        *(_queue(options, load, cores[-1:]) for load in LOADS),
        _pause(options, cores[-1:]),
        _rate(options, cores[-1:]),
    ]
    for check in checks:
        sys.stdout.write(json.dumps(check) + "\n")
    return 0 if all(check["held"] for check in checks) else 1


def _queue(options: argparse.Namespace, load: float, cores: list[int]) -> dict[str, Any]:
    service_s = options.service_ms / 1e3
    rng = np.random.default_rng([options.seed, int(load * 100)])
    due_s = poisson_arrivals_s(rate_per_s=load / service_s, duration_s=options.seconds, rng=rng)
    with _server(cores, "--service-ms", str(options.service_ms)) as port:
        paced = _send(port, due_s)
    course = sojourns(due_s, service_s)
    rows = {}
    worst = 0.0
    for percentile in PERCENTILES:
        measured = paced.percentile_ms(percentile)
        expected = 1e3 * float(np.percentile(course, percentile, method="higher"))
        steady = options.service_ms * sojourn_percentile(load, percentile)
        worst = max(worst, abs(measured / expected - 1.0))
        rows[f"p{percentile:g}"] = {
            "measured_ms": round(measured, 2),
            "these_arrivals_ms": round(expected, 2),
            "steady_state_ms": round(steady, 2),
        }
    return {
        "check": f"M/D/1 at load {load:g}", "sent": len(due_s), "service_ms": options.service_ms,
        **rows, "furthest_off": round(worst, 4), "late_p99_ms": round(paced.late_ms(99.0), 3),
        "held": worst <= _WITHIN and paced.answers == {"200": len(due_s)},
    }  # fmt: skip


def _pause(options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    """A second's pause in ten: every tenth request falls into it."""
    rng = np.random.default_rng([options.seed, 1])
    due_s = poisson_arrivals_s(rate_per_s=200.0, duration_s=10.0, rng=rng)
    with _server(cores, "--pause-at", str(len(due_s) // 2)) as port:
        paced = _send(port, due_s)
    p99_ms, longest_ms = paced.percentile_ms(99.0), paced.percentile_ms(100.0)
    return {
        "check": "a pause of one second", "sent": len(due_s), "p50_ms": paced.percentile_ms(50.0),
        "p99_ms": round(p99_ms, 1), "longest_ms": round(longest_ms, 1),
        # Of 10 % that wait 0 to 1 s each, one in ten waits longer than 0.9 s.
        "held": 800.0 <= p99_ms <= 1_000.0 and 990.0 <= longest_ms <= 1_100.0,
    }  # fmt: skip


def _rate(options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng([options.seed, 2])
    due_s = poisson_arrivals_s(rate_per_s=options.rate, duration_s=10.0, rng=rng)
    with _server(cores) as port:
        paced = _send(port, due_s)
    late_ms = paced.late_ms(99.0)
    return {
        "check": f"{options.rate:g} requests a second from one core", "sent": len(due_s),
        "p50_ms": round(paced.percentile_ms(50.0), 3),
        "p99_ms": round(paced.percentile_ms(99.0), 3),
        "late_p99_ms": round(late_ms, 3),
        "cpu_us_a_request": round(1e6 * paced.generator_cpu_s / len(due_s), 1),
        "held": late_ms <= _LATE_MS and paced.answers == {"200": len(due_s)},
    }  # fmt: skip


def _send(port: int, due_s: np.ndarray) -> Paced:
    request = prepare_post("127.0.0.1", port, "/", b"{}")
    sending = paced_http([request] * len(due_s), due_s, host="127.0.0.1", port=port).run()
    return uvloop.run(sending)


@contextlib.contextmanager
def _server(cores: list[int], *arguments: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.loadtest.queue_server", *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        os.sched_setaffinity(process.pid, cores)
        yield port
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
