"""Who is answered when more come than can be answered in time: a limit on requests at work.

::

    request ──► at work < limit ──► asks the servers
             └► else, as many again ──► answered from memory (a cheaper rung)
             └► else ──► refused at once, with Retry-After

The limit follows the measured time of the answers: while their 95th percentile is above the target
it falls by a tenth, while it is well below and the limit is in use it rises by a step. What waits
is then bounded by what is answered within the target, whatever comes.

Source: Welsh & Culler, "Adaptive Overload Control for Busy Internet Servers" (USITS 2003), which
controls the rate of admission by the 90th percentile of the response time, additively up and
multiplicatively down (Chiu & Jain 1989). Here it is the number of requests at work, which bounds
memory and waiting too and needs no guess of a rate (as in Netflix's concurrency-limits); and the
time includes what the event loop itself was late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recsys.telemetry import ADMISSION_LIMIT, ADMITTED

Verdict = Literal["servers", "memory", "refused"]


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """The target, and how fast the limit follows."""

    target_ms: float = 50.0
    """For the 95th percentile of the answers."""
    quantile: float = 0.95
    interval_s: float = 0.1
    """Between two looks; each needs ``min_answers``."""
    min_answers: int = 20
    rise_below: float = 0.7
    """Share of the target. Of twenty answers the 95th percentile is the slowest but one; a limit
    that rises until that is late has one answer in a hundred twice as late."""
    initial_limit: float = 24.0
    """What two cores answer in twice the target; where more fits it rises in seconds."""
    min_limit: float = 4.0
    """While more are turned away than answered. At 2 half as many are answered, one by one, and
    none of them sooner: what then takes the time is that everybody waits for a core."""
    calm_limit: float = 8.0
    """Otherwise: a machine that is slow for another reason than too many requests gets no faster
    by turning some away."""
    max_limit: float = 512.0
    step: float = 1.0
    factor: float = 0.9
    memory_share: float = 1.0
    """Answers from memory for each of the servers': they cost a tenth, and are worth a place."""
    memory_burst: float = 160.0
    """Of them while the servers answer nobody: what comes until a breaker takes their silence for a
    sign (a fifth of a second, or half a one while their usual time is not known)."""


class Admission:
    """Counts the requests at work. Belongs to one event loop."""

    def __init__(
        self,
        config: AdmissionConfig = AdmissionConfig(),
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock_s = clock_s
        self._limit = config.initial_limit
        self._at_work = 0
        self._most_at_work = 0
        self._from_memory = config.memory_burst
        self._num_turned_away = 0
        self._times_s: list[float] = []
        self._looked_s = clock_s()
        ADMISSION_LIMIT.set(self._limit)

    @property
    def limit(self) -> float:
        """Requests that may be at work at once."""
        return self._limit

    @property
    def is_full(self) -> bool:
        """Whether ``enter`` would refuse now."""
        return self._at_work >= self._limit and self._from_memory < 1.0

    def enter(self) -> Verdict:
        """Decide about a request; after ``servers`` a call of ``leave`` must follow."""
        if self._at_work < self._limit:
            self._at_work += 1
            self._most_at_work = max(self._most_at_work, self._at_work)
            return "servers"
        self._num_turned_away += 1
        verdict: Verdict = "refused"
        if self._from_memory >= 1.0:
            self._from_memory -= 1.0
            verdict = "memory"
        ADMITTED.labels(verdict).inc()
        return verdict

    def leave(self, seconds: float | None) -> None:
        """Take in that a request that asked the servers was done, and how long it took.

        ``None``: it was not answered, and says nothing.
        """
        self._at_work -= 1
        config = self._config
        if seconds is None:
            return
        self._from_memory = min(config.memory_burst, self._from_memory + config.memory_share)
        self._times_s.append(seconds)
        now_s = self._clock_s()
        if now_s - self._looked_s < config.interval_s or len(self._times_s) < config.min_answers:
            return
        ordered = sorted(self._times_s)
        high_s = ordered[int(config.quantile * (len(ordered) - 1))]
        is_overloaded = self._num_turned_away >= len(self._times_s)
        floor = config.min_limit if is_overloaded else config.calm_limit
        if high_s > config.target_ms / 1e3:
            # From what was at work: a limit far above it would fall for long without effect.
            self._limit = config.factor * min(self._limit, float(self._most_at_work))
        elif (
            high_s < config.rise_below * config.target_ms / 1e3
            and self._most_at_work >= self._limit / 2
        ):
            self._limit = min(config.max_limit, self._limit + config.step)
        self._limit = max(floor, self._limit)
        ADMISSION_LIMIT.set(self._limit)
        self._times_s.clear()
        self._num_turned_away = 0
        self._most_at_work = self._at_work
        self._looked_s = now_s
