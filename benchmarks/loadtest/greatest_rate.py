"""One rate of recommendations, measured: what the greatest rate is searched by."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import uvloop

from benchmarks.loadtest.arrivals import poisson_arrivals_s, zipf_users
from benchmarks.loadtest.connection import prepare_post
from benchmarks.loadtest.paced import Paced, paced_http
from benchmarks.loadtest.search import find_greatest, greatest

__all__ = ["Asking", "Limit", "Step", "find_greatest", "greatest", "measure_step", "prepared"]
PATH = "/v1/recommendations"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked of whom."""

    host: str
    port: int
    user_ids: tuple[str, ...]
    """Busiest first, drawn by Zipf's law with exponent 1."""
    k: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a rate is kept."""

    p99_ms: float = 50.0
    late_ms: float = 5.0
    """A step whose generator was later than this at its 99th percentile measured the generator."""
    warm_up_s: float = 2.0
    step_s: float = 10.0
    tolerance: float = 0.05
    """Bisection ends when the greatest kept and the least refused rate are this near."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One rate, measured."""

    rate: float
    sent: int
    answered_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late_p99_ms: float
    answers: dict[str, int]
    given_up: bool
    generator_cpu_s: float
    cpu_s: dict[str, float]
    """Spent by each part during the step."""
    kept: bool
    refused: str
    """Why not."""

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


CpuSeconds = Callable[[], dict[str, float]]


def measure_step(asking: Asking, rate: float, limit: Limit, cpu_s: CpuSeconds) -> Step:
    """Warm up at ``rate``, then measure it."""
    # Another sample of arrivals at every rate and step, and the same in every run.
    rng = np.random.default_rng([asking.seed, int(rate * 1000)])
    for duration_s in (limit.warm_up_s, limit.step_s):
        due_s = poisson_arrivals_s(rate_per_s=rate, duration_s=duration_s, rng=rng)
        requests = prepared(asking, len(due_s), rng)
        gc.collect()
        gc.disable()
        before = cpu_s()
        try:
            paced = uvloop.run(
                paced_http(
                    requests, due_s, host=asking.host, port=asking.port,
                    max_waiting=max(200, int(rate)),
                ).run()
            )  # fmt: skip
        finally:
            gc.enable()
        spent = {name: round(value - before.get(name, 0.0), 3) for name, value in cpu_s().items()}
        if paced.given_up:
            break
    return _judge(rate, paced, spent, limit)


def prepared(asking: Asking, count: int, rng: np.random.Generator) -> list[bytes]:
    """Give the bytes of ``count`` requests."""
    users = zipf_users(asking.user_ids, count, exponent=1.0, rng=rng)
    made: dict[str, bytes] = {}
    for user in set(users):
        body = msgspec.json.encode({"user_id": user, "k": asking.k})
        made[user] = prepare_post(asking.host, asking.port, PATH, body)
    return [made[user] for user in users]


def _judge(rate: float, paced: Paced, spent: dict[str, float], limit: Limit) -> Step:
    p99_ms, late_ms = paced.percentile_ms(99.0), paced.late_ms(99.0)
    wrong = {name: n for name, n in paced.answers.items() if name != "200 full"}
    refused = ""
    if paced.given_up:
        refused = "gave up: more than a second's requests waited"
    elif wrong:
        refused = f"answers that are not full: {wrong}"
    elif not p99_ms <= limit.p99_ms:
        refused = f"p99 {p99_ms:.1f} ms"
    elif not late_ms <= limit.late_ms:
        refused = f"the generator was {late_ms:.1f} ms late"
    return Step(
        rate=round(rate, 2),
        sent=len(paced.latency_s),
        answered_per_s=round(paced.answers["200 full"] / paced.elapsed_s, 1),
        p50_ms=round(paced.percentile_ms(50.0), 2),
        p95_ms=round(paced.percentile_ms(95.0), 2),
        p99_ms=round(p99_ms, 2),
        late_p99_ms=round(late_ms, 2),
        answers=dict(paced.answers),
        given_up=paced.given_up,
        generator_cpu_s=round(paced.generator_cpu_s, 3),
        cpu_s=spent,
        kept=not refused,
        refused=refused,
    )
