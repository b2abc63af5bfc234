"""From measured service figures to a profile: what each part takes, and nothing of the curve.

Used are: callers who wait for their answers (with pauses, and several at once), calls of the model
server alone, what runs while nobody asks, and of the curve the CPU time of each part at the two
lowest rates. Every latency of the curve, all batch sizes but theirs, and everything at the other
rates are left to the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulation.measured import Callers, Measured, ModelCalls, Rate, Times
from benchmarks.capacity.simulation.profile import (
    OTHERS,
    ApiCosts,
    Load,
    ModelCosts,
    PerCall,
    Profile,
    ServerCosts,
    Warmth,
)

_MODEL, _FRONT = "triton's children", "triton"
_COOLING_S = (0.005, 0.007, 0.01, 0.012, 0.015, 0.02, 0.025)
"""Times tried for the cooling of caches."""
_LOOK_S = 0.25
_COLD = tuple(n / 20 for n in range(61))
_RANK_SHARE = 0.75
"""Of a computation. Not measured by the figures kept: 500 candidates through the ranker against two
towers and a top-k; it decides only when a hurried ranker is left out."""
_HEAD_S, _MEMORY_SHARE = 15e-6, 0.1
"""A refusal, and an answer from memory as a share of all (docs/degradation.md)."""

# How an API process' time for a user, and for a call, is shared out over the steps of a request:
# by the steps timed in docs/load.md, what lies between them in proportion.
_OF_A_USER = {"receive": 0.30, "read": 0.05, "decode": 0.25, "call": 0.08, "reply": 0.07,
              "finish": 0.20, "exposure": 0.05}  # fmt: skip
_OF_A_CALL = {"read": 0.20, "decode": 0.30, "call": 0.25, "reply": 0.25}

Floats = NDArray[np.float64]


def calibrate(measured: Measured, *, name: str) -> Profile:
    """Give the profile of the machine that was measured."""
    alone = {one.pause_ms: one for one in measured.callers if one.callers == 1}
    calls = [_Call.of(one) for one in measured.callers]
    calls += [_Call.at_random(rate, measured.idle_cores) for rate in _low(measured)]
    direct = [_Call.alone(one) for one in measured.model_calls]
    api, api_warmth = _fit([call.of_part("api") for call in calls])
    batch, model_warmth = _fit([call.of_part(_MODEL, steps=2) for call in [*calls, *direct]])
    front, front_warmth = _fit([call.of_part(_FRONT) for call in calls])
    redis, redis_warmth = _fit([call.of_part("redis") for call in calls])
    users = _OF_A_USER

    def step(name: str) -> PerCall:
        return PerCall(call_s=_OF_A_CALL[name] * api.call_s, user_s=users[name] * api.user_s)

    return Profile(
        name=name, machine=measured.machine, commit=measured.commit,
        measured_at=measured.measured_at, made_of=_made_of(measured),
        cores=int(measured.machine["cores"]), together=max(measured.two_at_once, 1.0),
        speeds=measured.speeds,
        hop_s=_hop_s(list(alone.values())), generator_s=_generator(measured)[1],
        api=ApiCosts(
            head_s=_HEAD_S, receive_s=users["receive"] * api.user_s, read=step("read"),
            decode=step("decode"), call=step("call"), reply=step("reply"),
            finish_s=users["finish"] * api.user_s, exposure_s=users["exposure"] * api.user_s,
            memory_s=_MEMORY_SHARE * api(1), warmth=api_warmth,
            dispersion=_dispersion([one.features for one in alone.values()]),
        ),
        redis=ServerCosts(work=redis, warmth=redis_warmth),
        model=ModelCosts(
            front=front, front_warmth=front_warmth, batch=batch,
            rank_share=_RANK_SHARE, warmth=model_warmth,
            dispersion=_dispersion([one.recommend for one in alone.values()]),
        ),
        log=ServerCosts(work=PerCall(call_s=2e-4, user_s=1e-5)),
        background=_background(measured),
    )  # fmt: skip


class _Taken(NamedTuple):
    """What a part took of one call with so many users, so long after its last one."""

    users: float
    gap_s: float
    work_s: float
    is_random: bool
    """Whether gaps are exponential, ``gap_s`` on average."""

    def warmed(self, cooling_s: float) -> float:
        """Give the mean of ``1 - exp(-(gap / cooling)^2)``."""
        if not self.is_random:
            return 1.0 - math.exp(-((self.gap_s / cooling_s) ** 2))
        half = cooling_s / self.gap_s / 2.0
        return 1.0 - math.sqrt(math.pi) * half * math.exp(half * half) * math.erfc(half)


class _Call(NamedTuple):
    """Calls of the model server in one measurement, however they came about."""

    users: float
    every_s: float
    cpu_ms: Mapping[str, float]
    """Of a call, by part."""
    is_random: bool = False

    @classmethod
    def of(cls, one: Callers) -> _Call:
        """Give those that callers of the whole system made."""
        users = one.users_a_call
        every_s = (one.pause_ms + one.whole.mean_ms) / 1e3 * users / one.callers
        return cls(users, every_s, {k: v * users for k, v in one.cpu_ms_a_request.items()})

    @classmethod
    def at_random(cls, rate: Rate, idle_cores: Mapping[str, float]) -> _Call:
        """Give those of Poisson arrivals."""
        count = sum(rate.model_calls_by_users.values())
        cpu_ms = {
            part: 1e3 * (cpu_s - idle_cores.get(part, 0.0) * rate.duration_s) / count
            for part, cpu_s in rate.cpu_s.items()
        }
        return cls(rate.sent / count, rate.duration_s / count, cpu_ms, is_random=True)

    @classmethod
    def alone(cls, one: ModelCalls) -> _Call:
        """Give those that we made."""
        return cls(one.users, (one.pause_ms + one.wall.mean_ms) / 1e3, one.cpu_ms_a_call)

    def of_part(self, part: str, *, steps: int = 1) -> _Taken:
        """Give a part's; it takes a call in so many steps, so a gap is that much longer."""
        work_s = max(self.cpu_ms[part], 0.0) / 1e3
        gap_s = max(self.every_s - work_s / steps, 1e-6)
        return _Taken(self.users, gap_s, work_s, self.is_random)


def _fit(taken: Sequence[_Taken]) -> tuple[PerCall, Warmth]:
    """Fit ``(call + n user) (1 + cold (1 - exp(-(gap / cooling)^2)))``, by least relative errors.

    Cold and cooling are tried one after the other, call and user follow (none below 0).
    """
    taken = [one for one in taken if one.work_s > 0.0]
    users = np.array([one.users for one in taken])
    works_s = np.array([one.work_s for one in taken])
    best: tuple[float, PerCall, Warmth] | None = None
    for cooling_s in _COOLING_S:
        warmed = np.array([one.warmed(cooling_s) for one in taken])
        for cold in _COLD:
            slower = (1.0 + cold * warmed) / works_s
            columns = np.stack([slower, users * slower], axis=1)
            call_s, user_s = _not_negative(columns)
            wrong = float(np.sum((columns @ np.array([call_s, user_s]) - 1.0) ** 2))
            if best is None or wrong < best[0]:
                work = PerCall(call_s=round(call_s, 8), user_s=round(user_s, 8))
                best = wrong, work, Warmth(cold=float(cold), cooling_s=cooling_s)
    assert best is not None
    return best[1], best[2]


def _not_negative(columns: Floats) -> tuple[float, float]:
    """Give the two factors, neither below 0, with which the columns add up to 1, about."""
    ones = np.ones(len(columns))
    both = np.linalg.lstsq(columns, ones, rcond=None)[0].tolist()
    if min(both) >= 0.0:
        return both[0], both[1]
    only = [float(column.sum() / (column @ column)) for column in columns.T]
    return (only[0], 0.0) if both[1] < 0.0 else (0.0, only[1])


def _dispersion(times: Sequence[Times]) -> list[tuple[float, float]]:
    """Give the mean of the quantile functions, each as multiples of its own mean."""
    return [
        (float(q) / 100, round(float(np.mean([t.quantiles_ms[q] / t.mean_ms for t in times])), 4))
        for q in times[0].quantiles_ms
    ]


def _hop_s(calls: Sequence[Callers]) -> float:
    """Give what a quiet request waits that nobody works, by each of its eight ways."""
    waited = [
        one.whole.mean_ms
        - sum(max(one.cpu_ms_a_request[part], 0.0) for part in ("api", _MODEL, _FRONT, "redis"))
        for one in calls
    ]
    return max(float(np.median(waited)) / 1e3 / 8, 1e-5)


def _low(measured: Measured) -> list[Rate]:
    """Give the two lowest rates of the curve."""
    return sorted(measured.curve, key=lambda rate: rate.rate)[:2]


def _generator(measured: Measured) -> tuple[float, float]:
    """Give its cores while it waits, and its work for a request: from the two lowest rates."""
    low = _low(measured)
    cores = [rate.cpu_s["generator"] / rate.duration_s for rate in low]
    sent = [rate.sent / rate.duration_s for rate in low]
    work_s = max((cores[1] - cores[0]) / (sent[1] - sent[0]), 1e-6)
    return max(cores[0] - work_s * sent[0], 0.0), work_s


def _background(measured: Measured) -> list[Load]:
    """Give what runs whatever is asked.

    The processes of this system look at something four times a second (the model server at items
    that moved, the API at the live bundle, the worker's fetch is held so long). Kafka, Redis and
    what else was running come in bursts as long as the stalls that a loop saw.
    """
    lengths = measured.stalls.lengths_ms
    burst_s = float(np.mean(lengths)) / 1e3 if lengths else 3e-4
    where = {"redis": "redis", "kafka": "log", "stream": "log", "api": "api", _MODEL: "model",
             _FRONT: "machine"}  # fmt: skip
    cores: Mapping[str, float] = {
        **measured.idle_cores, OTHERS: measured.others_idle_cores,
        "generator, waiting": _generator(measured)[0],
    }  # fmt: skip
    return [
        Load(
            name=part, where=where.get(part, "machine"), cores=round(used, 5),
            every_s=_LOOK_S if part in ("api", "stream", _MODEL) else round(burst_s / used, 6),
        )
        for part, used in cores.items()
        if used > 1e-3
    ]  # fmt: skip


def _made_of(measured: Measured) -> list[str]:
    low = [rate.rate for rate in _low(measured)]
    return [
        "callers who ask one after the other with pauses of "
        + ", ".join(f"{one.pause_ms:g}" for one in measured.callers if one.callers == 1)
        + " ms, and "
        + ", ".join(f"{one.callers}" for one in measured.callers if one.callers > 1)
        + " at once: CPU of each part, times of the stages",
        "calls of the model server alone, of "
        + ", ".join(str(n) for n in sorted({one.users for one in measured.model_calls}))
        + " users",
        "CPU of each part and of everything else while nobody asks; stalls of a loop, its "
        "speed from moment to moment, two loops at once",
        f"of the curve at {low[0]:g} and {low[1]:g} requests a second: CPU of each part, calls",
    ]
