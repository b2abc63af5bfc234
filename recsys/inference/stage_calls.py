"""A call of a server that may fail or be late: told to its breaker, and waited for no longer than
there is time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, StageError
from recsys.resilience.breaker import CircuitBreaker
from recsys.time_limit import limited

T = TypeVar("T")
U = TypeVar("U")


def guarded(
    run: Callable[[Sequence[T]], Awaitable[Sequence[U]]], breaker: CircuitBreaker, stage: str
) -> Callable[[Sequence[T]], Awaitable[Sequence[U]]]:
    """Tell ``breaker`` what becomes of each batch."""

    async def run_guarded(calls: Sequence[T]) -> Sequence[U]:
        start_s = perf_counter()
        try:
            answers = await run(calls)
        except StageError as error:
            breaker.failed(error, waited_s=perf_counter() - start_s)
            raise
        except asyncio.CancelledError:
            # Its only caller has given up, having waited for as long as it could.
            late = DeadlineExceededError(f"{stage}: given up", stage=stage)
            breaker.failed(late, waited_s=perf_counter() - start_s)
            raise
        breaker.answered(waited_s=perf_counter() - start_s)
        return answers

    return run_guarded


async def within(deadline: Deadline, stage: str, work: Awaitable[T]) -> T:
    """Wait for ``work``. Raises DeadlineExceededError when the deadline passes first."""
    try:
        return await limited(deadline.remaining_s(), work)
    except TimeoutError as error:
        raise DeadlineExceededError(f"{stage}: no answer in time", stage=stage) from error
