"""One measurement of a plan: a step at a rate, the steps of a profile, or a search by bisection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from msgspec.structs import replace

from benchmarks.loadtest.arrivals import Segment, curve_arrivals_s, zipf_places
from benchmarks.loadtest.growth import growth
from benchmarks.loadtest.observed import Parts
from benchmarks.loadtest.observer import Observer
from benchmarks.loadtest.profiles import Profile
from benchmarks.loadtest.result import Repeat, Step
from benchmarks.loadtest.saturation import GENERATOR, saturation
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.senders import Schedule, Senders, SoFar, Watch
from benchmarks.loadtest.slo import Objective
from benchmarks.loadtest.stages import StageMetrics, between, from_headers
from benchmarks.loadtest.summary import summarise
from benchmarks.loadtest.trace import Trace
from benchmarks.loadtest.traffic import draw_kinds

_LEAST_WAITING = 200
_MOST_WAITING = 20_000
_LATE_STEPS = 3
"""A search ends after so many in a row whose generator was late."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured."""

    rate: float
    """Requests a second; of a search the first one."""
    duration_s: float
    warmup_s: float
    profile: Profile
    trace: Trace | None
    mix: dict[str, float]
    user_ids: Sequence[str]
    zipf: float
    timeout_s: float
    objective: Objective | None
    searches: bool
    tolerance: float

    @property
    def length_s(self) -> float:
        """How long a step is."""
        return self.trace.at_rate(self.rate).duration_s if self.trace else self.duration_s


class Measuring:
    """Measures a plan with senders that are there already."""

    def __init__(
        self,
        plan: Plan,
        senders: Senders,
        watch: Callable[[float], Watch],
        parts: Parts,
        metrics: StageMetrics,
    ) -> None:
        """``watch`` gives who watches a step of a rate; ``parts`` are processes to look at."""
        self._plan, self._senders, self._watch = plan, senders, watch
        senders_too = {GENERATOR: [psutil.Process(pid) for pid in senders.pids]}
        self._observer, self._metrics = Observer(parts | senders_too), metrics
        self.interrupted = False

    def repeat(self, seed: int, report: Callable[[Step], None]) -> Repeat:
        """Measure the plan once."""
        plan = self._plan

        def measure(rate: float) -> Step:
            return self.step(rate, seed)

        if plan.searches:
            steps = self._search(measure, report)
            best = greatest(steps)
            return Repeat(seed=seed, steps=steps, greatest_rate=best.rate if best else None)
        steps = []
        for rate in plan.profile.rates(plan.rate):
            steps.append(measure(rate))
            report(steps[-1])
            if self.interrupted:
                break
        return Repeat(seed=seed, steps=steps)

    def step(self, rate: float, seed: int) -> Step:
        """Warm up, then measure one rate."""
        plan = self._plan
        # Another sample at every rate and repeat, and the same in every run of this seed.
        rng = np.random.default_rng([seed, int(rate * 1000)])
        trace = plan.trace.at_rate(rate) if plan.trace else None
        curve = plan.profile.curve(rate, plan.duration_s)
        duration_s = plan.duration_s if trace is None else trace.duration_s
        peak = max(max(s.begin_per_s, s.end_per_s) for s in curve)
        waiting = peak if plan.searches else peak * plan.timeout_s
        max_waiting = int(min(max(waiting, _LEAST_WAITING), _MOST_WAITING))
        if plan.warmup_s > 0:
            begin = curve[0].begin_per_s or curve[0].end_per_s
            level = Segment(duration_s=plan.warmup_s, begin_per_s=begin, end_per_s=begin)
            schedule = self._schedule(curve_arrivals_s([level], rng), rng)
            warm = self._senders.run(schedule, max_waiting=max_waiting)
            self.interrupted |= warm.interrupted
        if trace is not None:
            schedule = self._schedule(trace.due_s, rng, trace)
        else:
            schedule = self._schedule(curve_arrivals_s(curve, rng), rng)
        observer, draw = self._observer, self._watch(rate)

        def watch(so_far: SoFar) -> None:
            observer.look()
            draw(so_far)

        stages_before = self._metrics.read()
        observer.begin(duration_s)
        sent = self._senders.run(schedule, max_waiting=max_waiting, watch=watch)
        processes, machine = observer.end()
        self.interrupted |= sent.interrupted
        expected = sum(segment.expected for segment in curve) / plan.duration_s
        step = summarise(
            sent, rate=expected if trace is None else trace.rate_per_s, duration_s=duration_s,
            timeout_s=plan.timeout_s, objective=plan.objective,
        )  # fmt: skip
        stages = between(stages_before, self._metrics.read(), step.sent)
        step = replace(
            step, processes=processes, stages=stages or from_headers(sent.stages, step.sent),
            grown=growth(observer.looks) if plan.profile.kind == "soak" else {},
        )  # fmt: skip
        return replace(step, saturation=saturation(step, processes, machine))

    def _search(
        self, measure: Callable[[float], Step], report: Callable[[Step], None]
    ) -> list[Step]:
        seen: list[Step] = []

        def measure_in_time(rate: float) -> Step:
            step = measure(rate)
            if step.is_late and not self.interrupted:  # it measured nothing: once more
                report(step)
                step = measure(rate)
            return step

        def note(step: Step) -> None:
            seen.append(step)
            report(step)
            late = [step.is_late for step in seen[-_LATE_STEPS:]]
            if self.interrupted or (len(late) == _LATE_STEPS and all(late)):
                raise _EndedError

        with contextlib.suppress(_EndedError):
            find_greatest(
                measure_in_time, start=self._plan.rate, tolerance=self._plan.tolerance, report=note
            )
        return seen

    def _schedule(
        self, due_s: np.ndarray, rng: np.random.Generator, trace: Trace | None = None
    ) -> Schedule:
        plan, count = self._plan, len(due_s)
        if trace is not None and trace.users is not None:
            place_of = {user: place for place, user in enumerate(plan.user_ids)}
            places = np.array([place_of[user] for user in trace.users], dtype=np.int64)
        else:
            places = zipf_places(len(plan.user_ids), count, exponent=plan.zipf, rng=rng)
        return Schedule(due_s=due_s, user_places=places, kinds=draw_kinds(plan.mix, count, rng))


class _EndedError(Exception):
    """The person at the terminal wants no more, or the generator measures itself at any rate."""
