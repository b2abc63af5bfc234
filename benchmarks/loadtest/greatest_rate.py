"""One rate of recommendations, measured: what the greatest rate is searched by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.loadtest.paced import Paced
from benchmarks.loadtest.stretch import Asking, draw, draws_of, waiting_at


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

    @property
    def cpu_ms(self) -> dict[str, float]:
        """CPU milliseconds a request by part; ``all`` is their sum, without the generator."""
        cost = {name: round(1e3 * spent / self.sent, 3) for name, spent in self.cpu_s.items()}
        return cost | {"all": round(sum(cost.values()), 3)}

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


CpuSeconds = Callable[[], dict[str, float]]


def measure_step(asking: Asking, rate: float, limit: Limit, cpu_s: CpuSeconds) -> Step:
    """Warm up at ``rate``, then measure it."""
    rng = draws_of(asking, rate)
    for duration_s in (limit.warm_up_s, limit.step_s):
        stretch = draw(asking, rate, duration_s, rng)
        before = cpu_s()
        paced = stretch.send(max_waiting=waiting_at(rate))
        spent = {name: round(value - before.get(name, 0.0), 3) for name, value in cpu_s().items()}
        if paced.given_up:
            break
    return _judge(rate, paced, spent, limit)


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
