"""Measuring what each part spends on its share of a request, while nothing queues.

A system that ``throughput prepare`` made is asked by callers who wait for their answers and pause
between them; the model server is asked besides on a connection of our own. What a process spends
after a pause is more than in a loop (its caches were taken meanwhile), so there are several pauses.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil
import uvloop
from numpy.typing import ArrayLike

from benchmarks.capacity.simulation.measured import (
    QUANTILES,
    Callers,
    Measured,
    ModelCalls,
    Rate,
    Stalls,
    Times,
)
from benchmarks.loadtest.connection import ConnectionPool
from benchmarks.loadtest.kernels import kernel_times, users
from benchmarks.loadtest.model_calls import between, model_calls
from benchmarks.loadtest.server_timing import note_stages
from benchmarks.loadtest.stages import StageMetrics
from benchmarks.loadtest.stages import between as stages_between
from benchmarks.loadtest.stretch import Asking, draw, draws_of, prepared, waiting_at
from benchmarks.loadtest.summary import PERCENTILES, histogram_of, latencies
from benchmarks.loadtest.system import System
from benchmarks.machine import commit, describe
from recsys.bundle.manifest import read_manifest
from recsys.deadline import Deadline
from recsys.inference.triton import TritonModel, TritonServer

_IDLE_S = 4.0
_STALLS_S = 4.0
_LEAST_STALL_S = 100e-6
_SPEEDS_S, _WINDOW_S = 10.0, 0.25
_UNIT = 20_000
"""Of the loop that is timed: about a millisecond."""
_PAUSES_S = (0.0, 0.003, 0.01, 0.03)
_TOGETHER = (2, 4, 8)
_CALLS = 150
_MODEL_SIZES = (1, 2, 4, 8, 16)
_MODEL_PAUSES_S = (0.0, 0.01)
_MODEL_CALLS = 40
_WARM_UP = 30
_LOOP = 3_000_000

CpuSeconds = Callable[[], dict[str, float]]


def measure(
    system: System,
    asking: Asking,
    bundle_id: str,
    *,
    rates: Sequence[float],
    step_s: float,
    sources: str,
    say: Callable[[str], None],
) -> Measured:
    """Measure a running system whose live bundle is ``bundle_id``; nothing else may run."""
    bundle = system.settings.bundle_dir / bundle_id
    manifest = read_manifest(bundle)
    system.find_processes()
    _ask(asking, callers=1, pause_s=0.0, calls=4 * _WARM_UP)
    say("what is spent while nobody asks")
    idle, others = _idle_cores(system.cpu_s)
    two_at_once, stalls = _two_at_once(), _stalls()
    callers = []
    for count, pause_s in [(1, p) for p in _PAUSES_S] + [(c, 0.0) for c in _TOGETHER]:
        callers.append(_callers(system, asking, idle, count, pause_s))
        say(f"{count} callers, pause {pause_s * 1e3:g} ms: p50 "
            f"{callers[-1].whole.quantiles_ms['50']:.2f} ms")  # fmt: skip
    alone = asyncio.run(_model_calls(system, bundle_id, idle))
    for one in alone:
        say(f"model server, {one.users} users: p50 {one.wall.quantiles_ms['50']:.2f} ms")
    curve = []
    for rate in rates:
        curve.append(measure_rate(system, asking, rate, step_s))
        found = curve[-1]
        say(f"{rate:g}/s: p50 {found.latency_ms['p50']:.2f}  p95 {found.latency_ms['p95']:.2f}  "
            f"p99 {found.latency_ms['p99']:.2f} ms  {found.answers}")  # fmt: skip
    return Measured(
        machine=describe(), commit=commit(), seed=asking.seed, items=manifest.num_items,
        sources=sources, measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        idle_cores=idle, others_idle_cores=others, two_at_once=two_at_once, stalls=stalls,
        speeds=_speeds(), callers=callers,
        model_calls=alone, kernel_ms_a_user=kernel_times(bundle), curve=curve,
    )  # fmt: skip


def measure_rate(system: System, asking: Asking, rate: float, step_s: float) -> Rate:
    """Send requests at ``rate`` for ``step_s`` seconds, after two seconds of warm-up."""
    rng = draws_of(asking, rate)
    metrics = StageMetrics(f"{system.url}/metrics")
    for duration_s in (2.0, step_s):
        stretch = draw(asking, rate, duration_s, rng)
        calls, stages = model_calls(system.url), metrics.read()
        spent, times = system.cpu_s(), psutil.cpu_times()
        paced = stretch.send(max_waiting=waiting_at(rate))
        after, now = system.cpu_s(), psutil.cpu_times()
    latency_ms = 1e3 * np.where(np.isnan(paced.latency_s), 5.0, paced.latency_s)
    count = len(latency_ms)
    total = sum(now) - sum(times) or 1e-9
    ours = paced.generator_cpu_s + sum(
        value - spent.get(name, 0.0) for name, value in after.items()
    )
    figures = latencies(latency_ms, PERCENTILES)
    return Rate(
        rate=rate, duration_s=step_s, sent=count,
        latency_ms={name: round(value, 3) for name, value in figures.items()},
        histogram=histogram_of(latency_ms).encode().decode(),
        answers=dict(paced.answers), generator_late_p99_ms=round(paced.late_ms(99.0), 3),
        cpu_s={
            **{name: round(value - spent.get(name, 0.0), 3) for name, value in after.items()},
            "generator": round(paced.generator_cpu_s, 3),
        },
        stages_ms={
            name: stage.mean_ms
            for name, stage in stages_between(stages, metrics.read(), count).items()
        },
        model_calls_by_users={
            f"{size:g}": int(times_)
            for size, times_ in between(calls, model_calls(system.url)).items()
        },
        others_cores=round((_busy_s(now) - _busy_s(times) - ours) / step_s, 3),
        stolen=round((now.steal - times.steal) / total, 4),
    )  # fmt: skip


def times_of(seconds: ArrayLike) -> Times:
    """Give the figures of measured times."""
    seconds = np.asarray(seconds, dtype=np.float64)
    found = np.percentile(seconds, QUANTILES) * 1e3
    return Times(
        count=len(seconds),
        mean_ms=round(float(np.mean(seconds)) * 1e3, 4),
        quantiles_ms={
            f"{q:g}": round(value, 4) for q, value in zip(QUANTILES, found.tolist(), strict=True)
        },
    )


def _busy_s(times: Any) -> float:
    """Give the core seconds that anybody here used; stolen time is nobody's here."""
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _idle_cores(cpu_s: CpuSeconds) -> tuple[dict[str, float], float]:
    """Give what each part uses while nobody asks, and what all others use."""
    time.sleep(1.0)
    before, busy_s, start = cpu_s(), _busy_s(psutil.cpu_times()), time.perf_counter()
    time.sleep(_IDLE_S)
    after, elapsed = cpu_s(), time.perf_counter() - start
    all_cores = (_busy_s(psutil.cpu_times()) - busy_s) / elapsed
    found = {name: round((after[name] - value) / elapsed, 5) for name, value in before.items()}
    return found, round(all_cores - sum(found.values()), 4)


def _spent(
    before: dict[str, float], after: dict[str, float], idle: dict[str, float], elapsed_s: float,
    count: int,
) -> dict[str, float]:  # fmt: skip
    return {
        name: round(1e3 * (after[name] - value - idle.get(name, 0.0) * elapsed_s) / count, 4)
        for name, value in before.items()
    }


def _callers(
    system: System, asking: Asking, idle: dict[str, float], count: int, pause_s: float
) -> Callers:
    _ask(asking, callers=count, pause_s=pause_s, calls=_WARM_UP)
    calls_before, before, start = model_calls(system.url), system.cpu_s(), time.perf_counter()
    whole, stages = _ask(asking, callers=count, pause_s=pause_s, calls=_CALLS)
    elapsed, after = time.perf_counter() - start, system.cpu_s()
    calls = between(calls_before, model_calls(system.url))
    return Callers(
        callers=count, pause_ms=pause_s * 1e3, whole=times_of(whole),
        features=times_of(np.array(stages["features"]) / 1e3),
        recommend=times_of(np.array(stages["recommend"]) / 1e3),
        users_a_call=round(len(whole) / max(sum(calls.values()), 1.0), 3),
        elapsed_s=round(elapsed, 3),
        cpu_ms_a_request=_spent(before, after, idle, elapsed, len(whole)),
    )  # fmt: skip


def _ask(
    asking: Asking, *, callers: int, pause_s: float, calls: int
) -> tuple[list[float], dict[str, list[float]]]:
    return uvloop.run(_asked(asking, callers, pause_s, calls))


async def _asked(
    asking: Asking, callers: int, pause_s: float, calls: int
) -> tuple[list[float], dict[str, list[float]]]:
    pool = ConnectionPool(asking.host, asking.port)
    requests = iter(prepared(asking, calls, np.random.default_rng([asking.seed, callers])))
    whole: list[float] = []
    stages: dict[str, list[float]] = {}

    async def caller() -> None:
        for request in requests:
            if pause_s:
                await asyncio.sleep(pause_s)
            start = time.perf_counter()
            answer = await pool.send(request, timeout_s=5.0)
            whole.append(time.perf_counter() - start)
            note_stages(answer.timing, stages)

    await asyncio.gather(*(caller() for _ in range(callers)))
    pool.close()
    return whole, stages


async def _model_calls(system: System, bundle_id: str, idle: dict[str, float]) -> list[ModelCalls]:
    manifest = read_manifest(system.settings.bundle_dir / bundle_id)
    found = []
    async with TritonServer(system.endpoints.require_triton()) as server:
        model = TritonModel(server, bundle_id)
        for size in _MODEL_SIZES:
            made: Any = users(manifest.dimensions, manifest.num_items, size)
            inputs = {name: tensor.numpy() for name, tensor in made.items()}
            for pause_s in _MODEL_PAUSES_S:
                wall: list[float] = []
                for _ in range(5):
                    await model.recommend(inputs, Deadline.after_ms(5_000))
                before, start = system.cpu_s(), time.perf_counter()
                for _ in range(_MODEL_CALLS):
                    await asyncio.sleep(pause_s)
                    begin = time.perf_counter()
                    await model.recommend(inputs, Deadline.after_ms(5_000))
                    wall.append(time.perf_counter() - begin)
                elapsed, after = time.perf_counter() - start, system.cpu_s()
                found.append(
                    ModelCalls(
                        users=size, pause_ms=pause_s * 1e3, wall=times_of(wall),
                        cpu_ms_a_call=_spent(before, after, idle, elapsed, _MODEL_CALLS),
                    )
                )  # fmt: skip
    return found


def _two_at_once() -> float:
    """Give how much longer a loop takes while the same loop runs beside it (best of three)."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(_looped, [1000, 1000])
        alone = min(pool.apply(_looped, [_LOOP]) for _ in range(3))
        both = min(sum(pool.map(_looped, [_LOOP, _LOOP], chunksize=1)) / 2 for _ in range(3))
    return round(both / alone, 3)


def _looped(count: int) -> float:
    start = time.thread_time()
    total = 0
    for number in range(count):
        total += number & 7
    return time.thread_time() - start


def _speeds() -> list[float]:
    """Compute the same again and again, and give how fast that was in each quarter of a second."""
    found = []
    for _ in range(int(_SPEEDS_S / _WINDOW_S)):
        units, spent_s, start = 0, 0.0, time.perf_counter()
        while time.perf_counter() - start < _WINDOW_S:
            spent_s += _looped(_UNIT)
            units += 1
        found.append(units / spent_s)
    return [round(speed / float(np.mean(found)), 4) for speed in found]


def _stalls() -> Stalls:
    """Look at the clock for a while; a gap is time that somebody else had the core."""
    found: list[float] = []
    start = last = time.perf_counter()
    while last - start < _STALLS_S:
        now = time.perf_counter()
        if now - last > _LEAST_STALL_S:
            found.append(now - last)
        last = now
    return Stalls(
        watched_s=_STALLS_S, least_ms=_LEAST_STALL_S * 1e3,
        lengths_ms=[round(1e3 * length, 3) for length in found],
    )  # fmt: skip
