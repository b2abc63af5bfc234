"""What a simulation found, in the words and units of a load test's result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from benchmarks.capacity.simulation.cluster import Cluster, Sample
from benchmarks.capacity.simulation.outcomes import Part
from benchmarks.capacity.simulation.profile import Profile
from benchmarks.capacity.simulation.shape import Failure, RandomFailures, Shape
from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.summary import PERCENTILES, histogram_of, latencies
from benchmarks.loadtest.trace import Trace

SCHEMA = "recsys-cluster-simulation/1"


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were due in one second, and the cluster at its end."""

    at_s: int
    due: int
    p50_ms: float
    p99_ms: float
    answers: dict[str, int]
    cores: dict[str, float]
    """Core seconds that each part used in it."""
    waiting: int
    """Requests without an answer at its end."""
    limit: float
    """Of admission, mean of the API processes."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one stretch of time: before, during or after a node was away."""

    name: str
    begin_s: float
    end_s: float
    sent: int
    latency_ms: dict[str, float]
    answers: dict[str, int]


class SimulatedRate(msgspec.Struct, frozen=True, kw_only=True):
    """One rate; times are of the requests due after the warm-up."""

    rate: float
    duration_s: float
    sent: int
    latency_ms: dict[str, float]
    histogram: str
    """HdrHistogram of microseconds, as in a load test's result."""
    answers: dict[str, int]
    cores: dict[str, float]
    """Core seconds a second of each part."""
    stages_ms: dict[str, float]
    """Mean of each stage for a request."""
    model_calls_by_users: dict[int, int]
    """Calls of the model servers, by users in them."""
    executions_by_users: dict[int, int]
    """Computations of the model servers, by users in them."""
    hedged: int
    retries: int
    events: int
    seconds: list[Second]
    stretches: list[Stretch]
    failures: list[tuple[float, str, str]]
    """When which node ``died`` or was ``back``."""
    interrupted: bool = False


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    schema: str = SCHEMA
    profile: str
    profile_of: str
    """Commit and date of the measurement that the profile was made of."""
    shape: dict[str, Any]
    seed: int
    p99_limit_ms: float | None
    greatest_rate: float | None
    """Highest rate that kept the limit with every answer full; where it was looked for."""
    rates: list[SimulatedRate]


def simulate_rate(
    profile: Profile,
    shape: Shape,
    *,
    rate: float,
    duration_s: float,
    warmup_s: float,
    seed: int,
    failures: Sequence[Failure] = (),
    random_failures: RandomFailures | None = None,
    trace: Trace | None = None,
    look: Callable[[float], None] | None = None,
) -> SimulatedRate:
    """Simulate one rate: Poisson arrivals, or those of a trace.

    Interrupted (``look`` raises KeyboardInterrupt, or Ctrl-C), it gives what was simulated till
    then: requests due at least a timeout before the end.
    """
    cluster = Cluster(profile, shape, seed=seed)
    cluster.fail(failures)
    if random_failures is not None:
        cluster.fail_at_random(random_failures)
    if trace is not None:
        due_s, duration_s, rate = trace.due_s, trace.duration_s, trace.rate_per_s
    else:
        rng = np.random.default_rng([seed, int(rate * 1000)])
        due_s = poisson_arrivals_s(rate_per_s=rate, duration_s=duration_s, rng=rng)
    end_s, interrupted = duration_s, False
    try:
        cluster.run(due_s, duration_s + shape.timeout_s + 1.0, look)
    except KeyboardInterrupt:
        end_s = min(duration_s, max(cluster.events.now_s - shape.timeout_s, 0.0))
        interrupted = True
    begin_s = min(warmup_s, end_s)
    part = cluster.outcomes.between(begin_s, end_s)
    cores = _cores(cluster.samples, begin_s, end_s)
    figures = latencies(part.latency_ms, PERCENTILES)
    all_ended = max(len(cluster.outcomes.labels), 1)
    return SimulatedRate(
        rate=round(rate, 3), duration_s=round(end_s - begin_s, 3), sent=part.count,
        latency_ms={name: round(value, 3) for name, value in figures.items()},
        histogram=histogram_of(part.latency_ms).encode().decode(),
        answers=part.answers, cores=cores,
        stages_ms={
            stage: round(1e3 * sum(api.stages_s[stage] for api in cluster.apis) / all_ended, 4)
            for stage in ("features", "recommend")
        },
        model_calls_by_users=_added([api.model_calls for api in cluster.apis]),
        executions_by_users=_added([model.executions for model in cluster.models]),
        hedged=sum(api.hedged for api in cluster.apis), retries=cluster.outcomes.retries,
        events=cluster.events.handled, seconds=_seconds(cluster, begin_s, end_s),
        stretches=_stretches(cluster, begin_s, end_s),
        failures=[
            (round(at_s, 3), node, "back" if is_back else "died")
            for at_s, node, is_back in cluster.failures
            if at_s <= end_s
        ],
        interrupted=interrupted,
    )  # fmt: skip


def encode(simulated: Simulated) -> bytes:
    """Give the JSON."""
    return msgspec.json.format(msgspec.json.encode(simulated), indent=1) + b"\n"


def _added(counts: Sequence[dict[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for one in counts:
        for size, times in one.items():
            total[size] = total.get(size, 0) + times
    return dict(sorted(total.items()))


def _cores(samples: Sequence[Sample], begin_s: float, end_s: float) -> dict[str, float]:
    inside = [sample for sample in samples if begin_s <= sample.at_s <= end_s]
    if len(inside) < 2:
        return {}
    first, last = inside[0], inside[-1]
    return {
        part: round((used - first.cores_s[part]) / (last.at_s - first.at_s), 4)
        for part, used in last.cores_s.items()
    }


def _seconds(cluster: Cluster, begin_s: float, end_s: float) -> list[Second]:
    at = {round(sample.at_s): sample for sample in cluster.samples}
    rows = []
    for second in range(int(begin_s), int(np.ceil(end_s))):
        before, after = at.get(second), at.get(second + 1)
        part = cluster.outcomes.between(second, min(second + 1, end_s))
        if before is None or after is None:
            continue
        rows.append(
            Second(
                at_s=second, due=part.count, answers=part.answers,
                p50_ms=round(part.percentile_ms(50), 3), p99_ms=round(part.percentile_ms(99), 3),
                cores={
                    name: round(used - before.cores_s[name], 4)
                    for name, used in after.cores_s.items()
                },
                waiting=after.waiting, limit=round(after.limit, 1),
            )
        )  # fmt: skip
    return rows


def _stretches(cluster: Cluster, begin_s: float, end_s: float) -> list[Stretch]:
    """Cut the time where a node died or came back; nothing where none did."""
    cuts = [(at_s, f"{node} {'back' if is_back else 'away'}") for at_s, node, is_back
            in cluster.failures if begin_s < at_s < end_s]  # fmt: skip
    if not cuts:
        return []
    edges = [(begin_s, "before"), *cuts, (end_s, "")]
    return [
        _stretch(name, cluster.outcomes.between(at_s, until_s))
        for (at_s, name), (until_s, _) in pairwise(edges)
    ]


def _stretch(name: str, part: Part) -> Stretch:
    figures = latencies(part.latency_ms, PERCENTILES)
    return Stretch(
        name=name, begin_s=round(part.begin_s, 3), end_s=round(part.end_s, 3), sent=part.count,
        latency_ms={key: round(value, 3) for key, value in figures.items()}, answers=part.answers,
    )  # fmt: skip
