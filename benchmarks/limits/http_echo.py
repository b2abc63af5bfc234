"""Requests a second that HTTP servers without any work answer in time, by our own generator.

Open loop, Poisson arrivals, rates rising by a half: a rate is kept when 99 % were answered within
50 ms of the moment they were due, all of them with 200, and the generator was in time itself.
Generator and server share the machine, as in the load tests; CPU time of the server for a request
does not depend on that.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.connection import prepare_post
from benchmarks.loadtest.paced import Paced
from benchmarks.loadtest.stretch import Stretch

KINDS = ("uvicorn", "protocol")
_FIRST_RATE, _GROWTH, _HIGHEST = 1_000.0, 1.5, 60_000.0
_P99_MS, _LATE_MS = 50.0, 5.0


def http_limits(seconds: float, seed: int) -> dict[str, Any]:
    """Give the greatest rate of each kind that was kept, and what ended the search."""
    return {kind: _greatest(kind, seconds, seed) for kind in KINDS}


def _greatest(kind: str, seconds: float, seed: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    rate = _FIRST_RATE
    with _server(kind) as (port, process):
        _send(port, np.arange(500) / 500)  # the first requests load what later ones find
        while rate < _HIGHEST:
            rng = np.random.default_rng([seed, int(rate)])
            due_s = poisson_arrivals_s(rate_per_s=rate, duration_s=seconds, rng=rng)
            before_s = _cpu_s(process)
            paced = _send(port, due_s)
            why = _why_not(paced, len(due_s))
            if why:
                return kept | {"ended_by": f"{rate:g}/s: {why}"}
            kept = {
                "requests/s": round(rate), "p99_ms": round(paced.percentile_ms(99.0), 2),
                "server_cpu_us": round(1e6 * (_cpu_s(process) - before_s) / len(due_s), 1),
                "generator_cpu_us": round(1e6 * paced.generator_cpu_s / len(due_s), 1),
            }  # fmt: skip
            rate *= _GROWTH
    return kept | {"ended_by": "the highest rate that is tried"}


def _why_not(paced: Paced, sent: int) -> str:
    if paced.answers != {"200": sent}:
        return f"{sent - paced.answers['200']} of {sent} without an answer"
    if paced.late_ms(99.0) > _LATE_MS:
        return f"the generator was {paced.late_ms(99.0):.0f} ms late"
    if paced.percentile_ms(99.0) > _P99_MS:
        return f"p99 {paced.percentile_ms(99.0):.0f} ms"
    return ""


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _send(port: int, due_s: np.ndarray) -> Paced:
    request = prepare_post("127.0.0.1", port, "/", b'{"user_id":"u1","k":20}')
    requests = [request] * len(due_s)
    return Stretch(host="127.0.0.1", port=port, requests=requests, due_s=due_s).send()


@contextlib.contextmanager
def _server(kind: str) -> Iterator[tuple[int, psutil.Process]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.limits.echo_server", "--kind", kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()
