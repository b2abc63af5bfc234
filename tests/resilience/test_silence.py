"""Looking at a call under way: silence is seen in time, and not by a loop that itself stood."""

from __future__ import annotations

import asyncio
import socket
import time

import uvloop

from recsys.resilience.breaker import BreakerConfig, CircuitBreaker
from recsys.resilience.silence import SilenceTimer

CONFIG = BreakerConfig(min_silence_s=0.05, min_calls_known=1)


async def released_within(seconds: float, breaker: CircuitBreaker) -> bool:
    """Watch a call that takes so long; tells whether others were told not to wait for it."""
    told: list[None] = []
    timer = SilenceTimer(breaker, lambda: told.append(None))
    await asyncio.sleep(seconds)
    timer.stop()
    await asyncio.sleep(CONFIG.min_silence_s)
    return bool(told)


def known() -> CircuitBreaker:
    breaker = CircuitBreaker("standing", CONFIG)
    breaker.answered(waited_s=0.001)
    return breaker


def test_a_call_that_nobody_answers_is_seen_and_one_that_was_stopped_is_not() -> None:
    assert uvloop.run(released_within(0.3, known()))
    assert not uvloop.run(released_within(0.02, known()))


def test_a_call_that_hangs_is_looked_at_again_when_the_others_are_no_longer_answered() -> None:
    async def run() -> bool:
        breaker = known()
        watched = asyncio.create_task(released_within(0.4, breaker))
        for _ in range(15):
            await asyncio.sleep(0.01)
            breaker.answered(waited_s=0.001)
        assert breaker.state == "closed"
        return await watched

    assert uvloop.run(run())


def test_a_loop_that_itself_stood_still_reads_first_what_came_meanwhile() -> None:
    async def run() -> CircuitBreaker:
        breaker, told = known(), list[None]()
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        timer = SilenceTimer(breaker, lambda: told.append(None))
        theirs.sendall(b"answer")
        time.sleep(2 * CONFIG.min_silence_s)
        await reader.readexactly(6)
        breaker.answered(waited_s=2 * CONFIG.min_silence_s)
        timer.stop()
        assert not told
        writer.close()
        theirs.close()
        return breaker

    assert uvloop.run(run()).state == "closed"
