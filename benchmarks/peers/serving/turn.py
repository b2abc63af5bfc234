"""One turn of one service: alone, at a rate all are asked at, as much as it can, and the objective.

All draw their arrivals and users from the same seeds, so that in one round every service is asked
the same by the same users.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.loadtest.greatest_rate import Limit, Step, measure_step
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.stretch import Asking
from benchmarks.peers.serving.callers import measure_callers
from benchmarks.peers.serving.services import Up

_WARM_UP_CALLERS = 4


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a turn consists of; the same for every service."""

    warm_up_s: float = 2.0
    alone_s: float = 5.0
    """One caller."""
    rate: float = 5.0
    """Requests a second at which all are asked, by a Poisson process."""
    rate_s: float = 10.0
    callers: tuple[int, ...] = (4, 8, 16)
    """Numbers of callers for the greatest rate answered at all; the better counts."""
    callers_s: float = 4.0
    limit: Limit = field(default_factory=lambda: Limit(warm_up_s=1.0, step_s=5.0, tolerance=0.1))
    """When a rate is kept, and how it is searched."""
    seed: int = 0


def take_turn(
    service: Up, asking: Asking, schedule: Schedule, round_: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure a service that is up; give plain data."""
    start = time.perf_counter()
    cpu_s = service.cpu_s

    def callers(count: int, duration_s: float, part: int) -> dict[str, Any]:
        seed = [schedule.seed, round_, part]
        return measure_callers(asking, count, duration_s, seed, cpu_s).as_json()

    callers(_WARM_UP_CALLERS, schedule.warm_up_s, 0)
    alone = callers(1, schedule.alone_s, 1)
    say(f"alone {_latencies(alone)}")
    same = replace(asking, seed=1000 * schedule.seed + round_)
    limit = replace(schedule.limit, step_s=schedule.rate_s)
    step = measure_step(same, schedule.rate, limit, cpu_s)
    say(f"{schedule.rate:g}/s {_latencies(step.as_json())}")
    loops = [
        callers(count, schedule.callers_s, 2 + place)
        for place, count in enumerate(schedule.callers)
    ]
    most = max(loops, key=lambda loop: float(loop["full_per_s"]))
    say(f"at most {most['full_per_s']}/s, {most['cpu_ms']['all']} ms of CPU a request")
    return {
        "same_lists": service.same_lists,
        "alone": alone,
        "at_rate": step.as_json() | {"cpu_ms": step.cpu_ms},
        "callers": loops,
        "most": most,
        "objective": _objective(service, same, schedule, alone, most["full_per_s"], say),
        "rss_mib": service.rss_mib(),
        "num_processes": service.num_processes,
        "took_s": round(time.perf_counter() - start, 1),
    }


def _objective(
    service: Up,
    asking: Asking,
    schedule: Schedule,
    alone: dict[str, Any],
    most: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Search the greatest rate whose p99 is within the limit.

    Who misses the limit while one caller waits for each answer keeps it at no rate: arrivals that
    do not wait can only meet.
    """
    limit = schedule.limit
    if not alone["p99_ms"] <= limit.p99_ms:
        why = f"one caller alone: p99 {alone['p99_ms']:.1f} ms"
        say(f"p99 within {limit.p99_ms:g} ms at no rate; {why}")
        return {"greatest_rate": None, "why": why, "steps": []}

    def report(step: Step) -> None:
        say(f"{step.rate:.1f}/s {_latencies(step.as_json())} {step.refused or 'kept'}")

    steps = find_greatest(
        lambda rate: measure_step(asking, rate, limit, service.cpu_s),
        start=max(1.0, 0.6 * most), tolerance=limit.tolerance, report=report,
    )  # fmt: skip
    best = greatest(steps)
    return {
        "greatest_rate": best.rate if best else None,
        "why": "" if best else steps[-1].refused,
        "steps": [step.as_json() for step in steps],
    }


def _latencies(found: dict[str, Any]) -> str:
    return f"p50 / p95 / p99 {found['p50_ms']:.1f} / {found['p95_ms']:.1f} / {found['p99_ms']:.1f}"
