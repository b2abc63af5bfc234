"""Adaptive micro-batching: what is waiting travels together, and nothing waits when idle.

A call that finds a free slot leaves at once, alone. While every slot is busy, calls queue; when one
comes free, everything waiting (up to ``max_batch``) leaves as one batch. So light load pays no
delay, and the busier it gets the larger, and per call the cheaper, the batches become.

What stands still lets calls pile up behind the batch that is under way. Where a ``CircuitBreaker``
watches, they are told as soon as it takes the silence for a sign, and the batch goes on: should it
be answered after all, the breaker hears of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from recsys.errors import OverloadedError
from recsys.resilience.breaker import CircuitBreaker
from recsys.resilience.silence import SilenceTimer

Call = TypeVar("Call")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """How calls are put together."""

    max_in_flight: int = 1
    """Batches under way at once. With one worker behind, a second batch would only queue there,
    and make both smaller; more than one bounds what a single slow answer holds up."""
    max_batch: int = 64
    """Calls in one batch: bounds what a single answer waits for."""
    max_waiting: int = 4096
    """Calls that may queue; more are refused at once rather than answered too late."""


class AdaptiveBatcher(Generic[Call, Answer]):
    """Hands calls of one event loop to ``run`` in batches; each caller gets its own answer.

    ``run`` gets the calls in order and gives as many answers in the same order. When it raises,
    every caller of that batch gets the exception. A caller that is cancelled leaves the others
    alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Call]], Awaitable[Sequence[Answer]]],
        config: BatchingConfig = BatchingConfig(),
        *,
        breaker: CircuitBreaker | None = None,
        stage: str = "",
    ) -> None:
        """Put calls together for ``run``.

        ``breaker`` says when nobody should wait any more, and is told of answers and failures by
        ``run``; ``None``: everybody waits. ``stage``: what its errors say has failed.
        """
        self._run = run
        self._config = config
        self._breaker = breaker
        self._stage = stage
        self._waiting: deque[tuple[Call, asyncio.Future[Answer]]] = deque()
        self._num_in_flight = 0
        self._under_way: dict[asyncio.Task[None], list[asyncio.Future[Answer]]] = {}
        """Who waits for each batch, but for those of a call that left alone."""

    async def __call__(self, call: Call) -> Answer:
        """Give the answer of ``call``.

        Raises:
            OverloadedError: when too many are waiting.
            CircuitOpenError: when nobody has been answered for so long that ``breaker`` takes it
                for a sign.
        """
        if len(self._waiting) >= self._config.max_waiting:
            raise OverloadedError(
                f"{len(self._waiting)} calls are waiting already; try again shortly", stage="queue"
            )
        if self._num_in_flight < self._config.max_in_flight and not self._waiting:
            self._num_in_flight += 1
            try:
                (answer,) = await self._watched([call])
            finally:
                self._num_in_flight -= 1
                self._start_waiting()
            return answer
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        return await future

    def _start_waiting(self) -> None:
        while self._waiting and self._num_in_flight < self._config.max_in_flight:
            batch: list[tuple[Call, asyncio.Future[Answer]]] = []
            while self._waiting and len(batch) < self._config.max_batch:
                call, future = self._waiting.popleft()
                if not future.done():  # its caller gave up
                    batch.append((call, future))
            if not batch:
                return
            self._num_in_flight += 1
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._under_way[task] = [future for _, future in batch]
            task.add_done_callback(self._under_way.pop)

    async def _run_batch(self, batch: list[tuple[Call, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._watched([call for call, _ in batch])
            assert len(answers) == len(batch), (len(answers), len(batch))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        finally:
            self._num_in_flight -= 1
            self._start_waiting()

    async def _watched(self, calls: Sequence[Call]) -> Sequence[Answer]:
        if self._breaker is None or self._breaker.silence_s is None:
            return await self._run(calls)
        timer = SilenceTimer(self._breaker, self._release)
        try:
            return await self._run(calls)
        finally:
            timer.stop()

    def _release(self) -> None:
        """Let nobody wait any more, but for who made a call that left alone."""
        assert self._breaker is not None
        waiting = [future for _, future in self._waiting]
        self._waiting.clear()
        for future in [*waiting, *(one for batch in self._under_way.values() for one in batch)]:
            if not future.done():
                future.set_exception(self._breaker.refusal(self._stage))
