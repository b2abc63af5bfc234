"""Hedged reads: a read that takes longer than most is sent once more, and the first answer counts.

Source: Dean & Barroso, "The Tail at Scale" (CACM 2013), hedged requests: the second goes out after
the 95th percentile of the usual time, which adds a few percent of load and cuts the tail that one
slow connection, or one slow replica, makes. Here a budget bounds the load besides: when everything
is slow, more reads are the last thing that helps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from recsys.deadline import Deadline
from recsys.resilience.hedge_rule import HedgeConfig, HedgeRule
from recsys.telemetry import HEDGED_READS

T = TypeVar("T")
_USUAL = HedgeConfig()


class Hedge:
    """Sends reads, some of them twice. Belongs to one event loop."""

    def __init__(self, config: HedgeConfig = _USUAL) -> None:
        self._rule = HedgeRule(config)

    @property
    def delay_s(self) -> float | None:
        """After how long a read is sent again; ``None`` while too little is known."""
        return self._rule.delay_s

    async def read(self, send: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline) -> T:
        """Give the answer of ``send()``, of whichever call gives it first.

        A call that failed leaves it to the other; when both did, the first failure is raised. The
        slower one goes on until ``deadline``, so that its connection can be used again.
        """
        rule = self._rule
        delay_s = rule.begins()
        start_s = time.perf_counter()
        if delay_s is None:
            answer = await send()
            rule.took(time.perf_counter() - start_s)
            return answer
        calls = [_started(send())]
        try:
            await _done_within(calls[0], delay_s)
            if not calls[0].done() and rule.may_send():
                calls.append(_started(send()))
                HEDGED_READS.labels("sent").inc()
            answer = calls[0].result() if calls[0].done() else await _first_answer(calls)
        except BaseException:
            for call in calls:
                call.cancel()
            raise
        if len(calls) == 2 and calls[1].done() and not calls[0].done():
            HEDGED_READS.labels("won").inc()
        rule.took(time.perf_counter() - start_s)
        for call in calls:
            if not call.done():
                loop = asyncio.get_running_loop()
                loop.call_later(deadline.remaining_s(), call.cancel)
        return answer


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
