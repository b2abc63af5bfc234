"""Hedged reads: a read that takes longer than most is sent once more, and the first answer counts.

Source: Dean & Barroso, "The Tail at Scale" (CACM 2013), hedged requests: the second goes out after
the 95th percentile of the usual time, which adds a few percent of load and cuts the tail that one
slow connection, or one slow replica, makes. Here a budget bounds the load besides: when everything
is slow, more reads are the last thing that helps.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys.deadline import Deadline
from recsys.telemetry import HEDGED_READS

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HedgeConfig:
    """When a second read is sent."""

    quantile: float = 0.95
    """Of the latest times: a read slower than this is hedged."""
    min_delay_s: float = 0.002
    """Never sooner: below it lies what this process itself takes when it is busy."""
    min_reads: int = 50
    """Before so many nothing is known."""
    remembered: int = 500
    budget: float = 0.05
    """Second reads for each first one, on average."""
    burst: float = 5.0
    """Of them at once, after a time without."""


class Hedge:
    """Sends reads, some of them twice. Belongs to one event loop."""

    def __init__(self, config: HedgeConfig = HedgeConfig()) -> None:
        self._config = config
        self._times_s: deque[float] = deque(maxlen=config.remembered)
        self._num_reads = 0
        self._allowed = config.burst
        self._delay_s = config.min_delay_s

    @property
    def delay_s(self) -> float | None:
        """After how long a read is sent again; ``None`` while too little is known."""
        return self._delay_s if len(self._times_s) >= self._config.min_reads else None

    async def read(self, send: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline) -> T:
        """Give the answer of ``send()``, of whichever call gives it first.

        A call that failed leaves it to the other; when both did, the first failure is raised. The
        slower one goes on until ``deadline``, so that its connection can be used again.
        """
        self._allowed = min(self._config.burst, self._allowed + self._config.budget)
        start_s = time.perf_counter()
        delay_s = self.delay_s
        if delay_s is None or self._allowed < 1.0:
            answer = await send()
            self._took(time.perf_counter() - start_s)
            return answer
        calls = [_started(send())]
        try:
            await _done_within(calls[0], delay_s)
            if not calls[0].done() and self._allowed >= 1.0:  # others may have used it up
                self._allowed -= 1.0
                calls.append(_started(send()))
                HEDGED_READS.labels("sent").inc()
            answer = calls[0].result() if calls[0].done() else await _first_answer(calls)
        except BaseException:
            for call in calls:
                call.cancel()
            raise
        if len(calls) == 2 and calls[1].done() and not calls[0].done():
            HEDGED_READS.labels("won").inc()
        self._took(time.perf_counter() - start_s)
        for call in calls:
            if not call.done():
                loop = asyncio.get_running_loop()
                loop.call_later(deadline.remaining_s(), call.cancel)
        return answer

    def _took(self, seconds: float) -> None:
        self._times_s.append(seconds)
        self._num_reads += 1
        if self._num_reads % self._config.min_reads == 0:
            ordered = sorted(self._times_s)
            place = int(self._config.quantile * (len(ordered) - 1))
            self._delay_s = max(self._config.min_delay_s, ordered[place])


def _started(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(call)
    task.add_done_callback(_look_at)
    return task


async def _done_within(task: asyncio.Task[Any], delay_s: float) -> None:
    """Return when ``task`` is done or after ``delay_s``; ``asyncio.wait`` takes thrice as long."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    task.add_done_callback(wake)
    timer = loop.call_later(delay_s, wake)
    try:
        await woken
    finally:
        timer.cancel()


def _look_at(task: asyncio.Task[Any]) -> None:
    """A failure of the slower call is nobody's any more."""
    if not task.cancelled():
        task.exception()


async def _first_answer(calls: list[asyncio.Task[T]]) -> T:
    left = set(calls)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for call in calls:  # of two at once the first one sent
            if call in done and not call.cancelled() and call.exception() is None:
                return call.result()
    return calls[0].result()  # raises
