"""A simulated curve held beside the measured one, rate by rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from benchmarks.capacity.simulation.measured import Measured, Rate
from benchmarks.capacity.simulation.profile import OTHERS, Profile
from benchmarks.capacity.simulation.report import SimulatedRate, simulate_rate
from benchmarks.capacity.simulation.shape import Shape

_FIGURES = ("p50", "p95", "p99")
_PARTS = {
    "api": "api", "model": "triton's children", "model front": "triton", "redis": "redis",
    "generator": "generator",
}  # fmt: skip


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One rate, measured and simulated."""

    rate: float
    measured_ms: dict[str, float]
    simulated_ms: dict[str, float]
    measured_cpu_ms: float
    """Of all processes for a request, the generator and whatever else ran among them."""
    simulated_cpu_ms: float
    measured_users_a_call: float
    simulated_users_a_call: float
    measured_stages_ms: dict[str, float]
    simulated_stages_ms: dict[str, float]
    measured_cores: dict[str, float]
    simulated_cores: dict[str, float]
    """Of the parts that both have; what runs while nobody asks is counted apart in a simulation."""
    measured_full: float
    """Share of the requests answered in full."""
    simulated_full: float

    def error(self, figure: str) -> float:
        """Give how far the simulated latency is off, as a share of the measured one."""
        return self.simulated_ms[figure] / self.measured_ms[figure] - 1.0


def predict(
    profile: Profile,
    measured: Measured,
    *,
    duration_s: float,
    seed: int,
    say: Callable[[str], None],
) -> list[Point]:
    """Simulate every rate that was measured, on one machine, for ``duration_s`` each.

    Longer than was measured: the simulation's own chance should not add to the measurement's. What
    else used the machine's cores while a rate was measured is no part of the system, and is taken
    as it was then.
    """
    points = []
    for rate in sorted(measured.curve, key=lambda one: one.rate):
        found = simulate_rate(
            _beside(profile, rate.others_cores), Shape(one_machine=True), rate=rate.rate,
            duration_s=duration_s + 5.0, warmup_s=5.0, seed=seed,
        )  # fmt: skip
        points.append(_point(rate, found))
        say(
            f"{rate.rate:g}/s, measured / simulated: "
            + "  ".join(
                f"{name} {rate.latency_ms[name]:.1f} / {found.latency_ms[name]:.1f}"
                for name in _FIGURES
            )
            + " ms"
        )
    return points


def _beside(profile: Profile, others_cores: float) -> Profile:
    """Give the profile with others on the machine who use so much, in bursts as long as ever."""
    cores = min(max(others_cores, 1e-3), 0.95)  # one thread
    loads = [
        msgspec.structs.replace(load, cores=cores, every_s=load.every_s * load.cores / cores)
        if load.name == OTHERS
        else load
        for load in profile.background
    ]
    return msgspec.structs.replace(profile, background=loads)


def _point(rate: Rate, found: SimulatedRate) -> Point:
    cores = {part: rate.cpu_s[name] / rate.duration_s for part, name in _PARTS.items()}
    return Point(
        rate=rate.rate,
        measured_ms={name: rate.latency_ms[name] for name in _FIGURES},
        simulated_ms={name: found.latency_ms[name] for name in _FIGURES},
        measured_cpu_ms=1e3 * (sum(rate.cpu_s.values()) + rate.others_cores * rate.duration_s)
        / rate.sent,
        simulated_cpu_ms=1e3 * sum(found.cores.values()) * found.duration_s / found.sent,
        measured_users_a_call=_mean_users(
            {float(size): times for size, times in rate.model_calls_by_users.items()}
        ),
        simulated_users_a_call=_mean_users(found.model_calls_by_users),
        measured_stages_ms={name: rate.stages_ms[name] for name in found.stages_ms},
        simulated_stages_ms=found.stages_ms,
        measured_cores={part: round(used, 4) for part, used in cores.items()},
        simulated_cores={part: found.cores[part] for part in _PARTS if part in found.cores},
        measured_full=rate.answers.get("200 full", 0) / rate.sent,
        simulated_full=found.answers.get("200 full", 0) / found.sent,
    )  # fmt: skip


def _mean_users(calls: Mapping[float, int] | Mapping[int, int]) -> float:
    total = sum(calls.values())
    return sum(size * times for size, times in calls.items()) / total if total else float("nan")
