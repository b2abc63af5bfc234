"""A closed loop: each caller asks again as soon as it was answered. What a service can do at all.

Under an open loop a service that is asked for more than it can do has a queue and no latency; a
closed loop asks for as much as is answered. Its latencies are those of that many callers, no more.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop

from benchmarks.loadtest.connection import ConnectionPool
from benchmarks.loadtest.greatest_rate import CpuSeconds
from benchmarks.loadtest.paced import FAILED, rung_of
from benchmarks.loadtest.stretch import Asking, prepared

_TIMEOUT_S = 10.0
_MANY = 20_000


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What some callers saw."""

    callers: int
    answered: int
    full_per_s: float
    """Full answers a second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    answers: dict[str, int]
    cpu_ms: dict[str, float]
    """CPU milliseconds a request of each part; ``all`` is their sum."""
    generator_cpu_ms: float

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        return dict(vars(self))


def measure_callers(
    asking: Asking, callers: int, duration_s: float, seed: list[int], cpu_s: CpuSeconds
) -> Loop:
    """Let ``callers`` ask for ``duration_s``; users are drawn with ``seed``."""
    requests = prepared(asking, _MANY, np.random.default_rng(seed))
    gc.collect()
    gc.disable()
    before, own_s = cpu_s(), time.process_time()
    try:
        latency_s, answers, elapsed_s = uvloop.run(_ask(asking, requests, callers, duration_s))
    finally:
        gc.enable()
    own_s = time.process_time() - own_s
    spent = {name: value - before.get(name, 0.0) for name, value in cpu_s().items()}
    count = max(len(latency_s), 1)
    cpu_ms = {name: round(1e3 * value / count, 3) for name, value in spent.items()}
    p50, p95, p99 = (
        np.percentile(latency_s, [50, 95, 99], method="higher") * 1e3
        if latency_s else [float("inf")] * 3
    )  # fmt: skip
    return Loop(
        callers=callers,
        answered=len(latency_s),
        full_per_s=round(answers["200 full"] / elapsed_s, 2),
        p50_ms=round(float(p50), 2),
        p95_ms=round(float(p95), 2),
        p99_ms=round(float(p99), 2),
        answers=dict(answers),
        cpu_ms=cpu_ms | {"all": round(sum(cpu_ms.values()), 3)},
        generator_cpu_ms=round(1e3 * own_s / count, 3),
    )


async def _ask(
    asking: Asking, requests: list[bytes], callers: int, duration_s: float
) -> tuple[list[float], Counter[str], float]:
    pool = ConnectionPool(asking.host, asking.port)
    latency_s: list[float] = []
    answers: Counter[str] = Counter()
    waiting = iter(requests * 4)
    start = time.perf_counter()

    async def caller() -> None:
        while (begin := time.perf_counter()) - start < duration_s:
            try:
                answer = await pool.send(next(waiting), timeout_s=_TIMEOUT_S)
            except (OSError, TimeoutError) as error:
                answers[f"{FAILED}: {type(error).__name__}"] += 1
                continue
            latency_s.append(time.perf_counter() - begin)
            answers[rung_of(answer.status, answer.body)] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed_s = time.perf_counter() - start
    pool.close()
    return latency_s, answers, elapsed_s
