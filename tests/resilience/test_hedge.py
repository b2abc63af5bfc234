"""Reads sent a second time: which answer counts, and how many are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from recsys.deadline import Deadline
from recsys.resilience.hedge import Hedge
from recsys.resilience.hedge_rule import HedgeConfig

CONFIG = HedgeConfig(min_reads=4, remembered=8, min_delay_s=0.01, burst=3.0, budget=0.1)


def answers(*times_s: float, fails: tuple[int, ...] = ()) -> Callable[[], Awaitable[int]]:
    """Give calls that answer with their number after the given times."""
    number = 0

    async def send() -> int:
        nonlocal number
        mine, number = number, number + 1
        await asyncio.sleep(times_s[mine])
        if mine in fails:
            raise ConnectionError(f"call {mine}")
        return mine

    return send


async def warm(hedge: Hedge) -> None:
    for _ in range(CONFIG.min_reads):
        await hedge.read(answers(0.0), Deadline.after_ms(1000))


def run(send: Callable[[], Awaitable[int]], *, config: HedgeConfig = CONFIG) -> int:
    async def go() -> int:
        hedge = Hedge(config)
        await warm(hedge)
        return await hedge.read(send, Deadline.after_ms(1000))

    return asyncio.run(go())


def test_a_slow_read_is_sent_again_and_the_first_answer_counts() -> None:
    assert run(answers(1.0, 0.0)) == 1
    assert run(answers(0.03, 0.5)) == 0
    assert run(answers(0.0, 0.0)) == 0


def test_of_two_the_one_that_does_not_fail_counts() -> None:
    assert run(answers(0.03, 0.01, fails=(1,))) == 0
    assert run(answers(0.02, 0.03, fails=(0,))) == 1
    with pytest.raises(ConnectionError, match="call 0"):
        run(answers(0.03, 0.01, fails=(0, 1)))
    with pytest.raises(ConnectionError, match="call 0"):
        run(answers(0.0, fails=(0,)))


def test_the_budget_bounds_second_reads_when_all_are_slow() -> None:
    async def go() -> int:
        hedge, sent = Hedge(CONFIG), 0
        await warm(hedge)

        async def slow() -> None:
            nonlocal sent
            sent += 1
            await asyncio.sleep(0.02)

        await asyncio.gather(*(hedge.read(slow, Deadline.after_ms(1000)) for _ in range(40)))
        return sent - 40

    assert 0 < asyncio.run(go()) <= 3 + 4


def test_nothing_is_sent_twice_before_the_usual_time_is_known() -> None:
    async def go() -> int:
        return await Hedge(CONFIG).read(answers(0.05), Deadline.after_ms(1000))

    assert asyncio.run(go()) == 0


def test_a_caller_that_gives_up_takes_both_along() -> None:
    async def go() -> int:
        hedge, left = Hedge(CONFIG), 0
        await warm(hedge)

        async def slow() -> None:
            nonlocal left
            left += 1
            try:
                await asyncio.sleep(1.0)
            finally:
                left -= 1

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await hedge.read(slow, Deadline.after_ms(1000))
        await asyncio.sleep(0)
        return left

    assert asyncio.run(go()) == 0
