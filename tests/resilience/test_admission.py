"""How many requests are at work at once, and what becomes of the others."""

from __future__ import annotations

import heapq

import numpy as np

from recsys.resilience.admission import Admission, AdmissionConfig


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_above_the_limit_memory_answers_as_many_again_and_the_rest_is_refused() -> None:
    config = AdmissionConfig(initial_limit=2, memory_burst=3.0)
    admission = Admission(config, clock_s=Clock())
    verdicts = [admission.enter() for _ in range(7)]
    assert verdicts == ["servers"] * 2 + ["memory"] * 3 + ["refused"] * 2
    admission.leave(0.01)
    assert [admission.enter() for _ in range(3)] == ["servers", "memory", "refused"]


def simulated(rate_per_s: float, *, seconds: float, capacity_per_s: float) -> dict[str, object]:
    """Give what becomes of Poisson arrivals at one server that takes turns."""
    clock, rng = Clock(), np.random.default_rng(3)
    admission = Admission(clock_s=clock)
    free_at_s, done, times, counts, limits = 0.0, [], [], {}, []
    while clock.now_s < seconds:
        clock.now_s += rng.exponential(1 / rate_per_s)
        while done and done[0][0] <= clock.now_s:
            end_s, began_s = heapq.heappop(done)
            now_s, clock.now_s = clock.now_s, end_s
            admission.leave(end_s - began_s)
            clock.now_s = now_s
            if end_s > seconds / 2:
                times.append(end_s - began_s)
        verdict = admission.enter()
        counts[verdict] = counts.get(verdict, 0) + 1
        limits.append(admission.limit)
        if verdict == "servers":
            free_at_s = max(free_at_s, clock.now_s) + rng.exponential(1 / capacity_per_s)
            heapq.heappush(done, (free_at_s, clock.now_s))
    return {"p99_ms": float(np.quantile(times, 0.99)) * 1e3, "counts": counts,
            "served_per_s": len(times) / (seconds / 2), "limit": limits[-1]}  # fmt: skip


def test_ten_times_overload_keeps_the_answered_ones_in_time_and_the_server_busy() -> None:
    for capacity_per_s in (300.0, 2000.0):
        found = simulated(10 * capacity_per_s, seconds=20.0, capacity_per_s=capacity_per_s)
        assert found["p99_ms"] < 100.0, found
        assert found["served_per_s"] > 0.9 * capacity_per_s, found


def test_below_capacity_nobody_is_turned_away() -> None:
    found = simulated(150.0, seconds=20.0, capacity_per_s=300.0)
    assert set(found["counts"]) == {"servers"}


def test_a_slow_machine_that_is_not_overloaded_goes_on_answering() -> None:
    clock = Clock()
    admission = Admission(clock_s=clock)
    for _ in range(2_000):  # one at a time, each four times the target
        assert admission.enter() == "servers"
        clock.now_s += 0.2
        admission.leave(0.2)
    assert admission.limit == AdmissionConfig().calm_limit


def test_what_was_not_answered_says_nothing_about_time() -> None:
    clock = Clock()
    admission = Admission(clock_s=clock)
    for _ in range(1_000):
        assert admission.enter() == "servers"
        clock.now_s += 0.01
        admission.leave(None)
    assert admission.limit == AdmissionConfig().initial_limit


def test_the_limit_rises_while_answers_are_well_within_the_target_and_stays_near_it() -> None:
    def limit_after(seconds: float) -> float:
        clock = Clock()
        admission = Admission(AdmissionConfig(initial_limit=10.0), clock_s=clock)
        for _ in range(40):
            asking = [admission.enter() for _ in range(10)].count("servers")
            clock.now_s += seconds
            for _ in range(asking):
                admission.leave(seconds)
        return admission.limit

    assert limit_after(0.030) > 10.0
    assert limit_after(0.040) == 10.0
    assert limit_after(0.051) < 10.0
