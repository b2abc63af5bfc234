"""What is waited for ends with the time, and a cancellation from elsewhere stays one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from recsys.time_limit import limited

Run = Callable[[Coroutine[Any, Any, Any]], Any]
pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def answer() -> int:
    await asyncio.sleep(0)
    return 1


def test_who_answers_in_time_is_heard_and_so_is_who_fails(run: Run) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ConnectionError("gone")

    assert run(limited(1.0, answer())) == 1
    with pytest.raises(ConnectionError, match="gone"):
        run(limited(1.0, fail()))


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_who_is_late_is_cancelled_and_the_caller_goes_on(run: Run, seconds: float) -> None:
    async def go() -> int:
        ended = asyncio.Event()

        async def late() -> None:
            try:
                await asyncio.sleep(10.0)
            finally:
                ended.set()

        with pytest.raises(TimeoutError):
            await limited(seconds, late())
        assert ended.is_set()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return await answer()

    assert run(go()) == 1


def test_a_caller_cancelled_from_elsewhere_is_not_told_of_a_time(run: Run) -> None:
    async def go() -> None:
        task = asyncio.create_task(limited(10.0, asyncio.sleep(10.0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(go())


def test_of_two_limits_the_one_that_is_over_speaks(run: Run) -> None:
    async def go(outer_s: float, inner_s: float) -> str:
        async def inner() -> str:
            try:
                await limited(inner_s, asyncio.sleep(10.0))
            except TimeoutError:
                return "inner"
            raise AssertionError("wanted a limit to be over")

        try:
            return await limited(outer_s, inner())
        except TimeoutError:
            return "outer"

    assert run(go(10.0, 0.01)) == "inner"
    assert run(go(0.01, 10.0)) == "outer"


def test_a_failure_at_the_last_moment_leaves_no_cancellation_behind(run: Run) -> None:
    async def go() -> int:
        async def stubborn() -> None:
            try:
                await asyncio.sleep(10.0)
            except asyncio.CancelledError:
                raise ConnectionError("closing") from None

        with pytest.raises(ConnectionError, match="closing"):
            await limited(0.01, stubborn())
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run(go()) == 0
