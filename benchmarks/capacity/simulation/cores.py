"""A machine whose threads share its cores, and threads that do one thing after the other.

Threads that want a core at the same moment get equal shares (processor sharing): what a scheduler
of short turns comes to. With ``n`` that want one of ``c`` cores, ``min(n, c)`` cores are busy and
each thread has ``min(1, c / n)`` of one. Cores that share caches, memory and, as hyper-threads do,
units are slower together: ``together`` says by how much when all of them are busy.

Source: Kleinrock 1976, *Queueing Systems* II, 4.4 (processor sharing); the virtual time by which a
job that needs ``w`` ends when every job has had ``w`` more is that of fair queueing (Demers,
Keshav & Shenker 1989), so a start or an end costs the logarithm of the number of jobs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from benchmarks.capacity.simulation.events import Do, Events

_BESIDE = -1
"""Step of work beside the requests; its cost is measured as it comes, cold or not."""


class Machine:
    """Cores that threads share."""

    def __init__(self, events: Events, cores: int, *, together: float = 1.0) -> None:
        """``together``: how many times as long work takes while all cores are busy."""
        self.events = events
        self.cores = cores
        self.busy_s = 0.0
        """Core seconds used so far."""
        self._slower = (together - 1.0) / (cores - 1) if cores > 1 else 0.0
        self._jobs: list[tuple[float, int, Thread]] = []
        """Virtual time at which each ends, least first."""
        self._number = 0
        self._virtual_s = 0.0
        """Work that a job that was there all the time has had done."""
        self._core_s = 0.0
        """Time on a core that such a job has had."""
        self._rate = 1.0
        """Work a second of each job."""
        self._share = 1.0
        """Of a core that each job has."""
        self._updated_s = 0.0
        self._due: tuple[float, float] = (-1.0, 0.0)
        """Virtual end and rate for which the next end was scheduled."""
        self._speed = 1.0
        self._version = 0
        self._is_ending = False
        """While a thread takes in that its job has ended: what is next is scheduled after that."""

    def start(self, thread: Thread, work_s: float) -> float:
        """Begin a job of a thread, which is told by ``ended``; gives ``core_s``."""
        if self._updated_s != self.events.now_s:
            self._advance()
        self._number += 1
        heappush(self._jobs, (self._virtual_s + work_s, self._number, thread))
        if not self._is_ending:
            self._reschedule()
        return self._core_s

    def cancel(self, thread: Thread) -> None:
        """Take a thread's job away, unfinished."""
        self._advance()
        self._jobs = [job for job in self._jobs if job[2] is not thread]
        heapify(self._jobs)
        self._reschedule()

    def set_speed(self, speed: float) -> None:
        """Let all its cores be so many times as fast from now on."""
        self._advance()
        self._speed = speed
        self._reschedule()

    def _advance(self) -> None:
        now_s = self.events.now_s
        elapsed_s = now_s - self._updated_s
        if elapsed_s > 0.0:
            count = len(self._jobs)
            if count:
                self._virtual_s += elapsed_s * self._rate
                self._core_s += elapsed_s * self._share
                self.busy_s += elapsed_s * (count if count < self.cores else self.cores)
            self._updated_s = now_s

    def _reschedule(self) -> None:
        jobs = self._jobs
        if not jobs:
            self._version += 1
            self._due = (-1.0, 0.0)
            return
        count, cores = len(jobs), self.cores
        busy = count if count < cores else cores
        self._share = busy / count
        self._rate = rate = self._share * self._speed / (1.0 + self._slower * (busy - 1))
        end = jobs[0][0]
        if self._due == (end, rate):
            return  # what is scheduled still holds
        self._due = (end, rate)
        self._version = version = self._version + 1
        left_s = end - self._virtual_s
        self.events.after(left_s / rate if left_s > 0.0 else 0.0, self._look, version)

    def _look(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        end, _, thread = heappop(self._jobs)
        self._virtual_s = max(self._virtual_s, end)  # rounding
        self._due = (-1.0, 0.0)
        self._is_ending = True
        thread.ended(self._core_s)
        self._is_ending = False
        self._reschedule()


class Thread:
    """Does what it is given in the order it came, sharing the cores of its machine.

    What a step of the work finds in the caches was left there when the same step was last done. A
    step that begins ``pause`` seconds after that takes ``1 + cold (1 - exp(-(pause / cooling)^2))``
    times as long as in a loop: hardly more after a short pause, all of it after a long one.
    """

    __slots__ = (
        "_began_s", "_cold", "_cooling_s", "_current", "_ended_s", "_machine", "_queue",
        "core_s",
        "is_alive",
    )  # fmt: skip

    def __init__(self, machine: Machine, *, cold: float = 0.0, cooling_s: float = 1.0) -> None:
        self._machine = machine
        self._queue: deque[tuple[float, Do, Any, int]] = deque()
        self._current: tuple[float, Do, Any, int] | None = None
        self._cold, self._cooling_s = cold, cooling_s
        self._ended_s: dict[int, float] = {}
        """When each step was last done."""
        self._began_s = 0.0
        self.core_s = 0.0
        """Core seconds used so far, by what has ended."""
        self.is_alive = True

    @property
    def waiting(self) -> int:
        """Things it has not ended."""
        return len(self._queue) + (self._current is not None)

    def do(self, work_s: float, done: Do, what: Any = None, step: int = 0) -> None:
        """Work for ``work_s`` seconds of a core of its own, then call ``done(what)``.

        ``step`` is what kind of work it is: its caches are those of the last work of that kind.
        Nothing comes of it when the thread is dead by then.
        """
        if not self.is_alive:
            return
        if self._current is None:
            self._begin((work_s, done, what, step))
        else:
            self._queue.append((work_s, done, what, step))

    def ended(self, core_s: float) -> None:
        """The machine has done the job; ``core_s`` as ``start`` gave it, now."""
        self.core_s += core_s - self._began_s
        current = self._current
        assert current is not None
        if self._cold:
            self._ended_s[current[3]] = self._machine.events.now_s
        current[1](current[2])  # what it gives us to do queues behind what waits
        if not self.is_alive:
            return
        if self._queue:
            self._begin(self._queue.popleft())
        else:
            self._current = None

    def kill(self) -> None:
        """End it: what it was doing and what waits is lost."""
        if self._current is not None and self.is_alive:
            self._machine.cancel(self)
        self.is_alive = False
        self._current = None
        self._queue.clear()

    def revive(self) -> None:
        """Begin anew, with nothing to do and cold caches."""
        self.is_alive = True
        self._ended_s.clear()

    def _begin(self, work: tuple[float, Do, Any, int]) -> None:
        self._current = work
        machine = self._machine
        work_s = work[0]
        if self._cold and work[3] != _BESIDE:
            pause = (machine.events.now_s - self._ended_s.get(work[3], -1e9)) / self._cooling_s
            work_s *= 1.0 + self._cold * (1.0 - math.exp(-pause * pause))
        self._began_s = machine.start(self, work_s)


class Background:
    """Bursts of work that come whatever is asked: at random moments, or every so often."""

    def __init__(
        self,
        thread: Thread,
        events: Events,
        *,
        every_s: float,
        work_s: Callable[[], float],
        pause_s: Callable[[], float] | None = None,
    ) -> None:
        """``pause_s`` draws the time between two; ``None``: it is always ``every_s``."""
        self._thread, self._events = thread, events
        self._every_s, self._work_s, self._pause_s = every_s, work_s, pause_s
        events.after(every_s if pause_s is None else pause_s(), self._burst)

    def _burst(self, _: object) -> None:
        self._thread.do(self._work_s(), _nothing, None, _BESIDE)
        pause_s = self._every_s if self._pause_s is None else self._pause_s()
        self._events.after(pause_s, self._burst)


def _nothing(_: object) -> None:
    pass
