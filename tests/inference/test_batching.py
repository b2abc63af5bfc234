"""Adaptive micro-batching: no waiting when idle, together when busy, failures kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from recsys.errors import OverloadedError
from recsys.inference.batching import AdaptiveBatcher, BatchingConfig


class Doubler:
    """Doubles numbers once ``gate`` is open; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, calls: Sequence[int]) -> list[int]:
        self.batches.append(list(calls))
        await self.gate.wait()
        if 13 in calls:
            raise ValueError("thirteen")
        return [2 * call for call in calls]


def test_idle_calls_leave_alone_and_busy_ones_together() -> None:
    async def run() -> None:
        work = Doubler()
        batcher = AdaptiveBatcher(work, BatchingConfig(max_in_flight=2, max_batch=3))
        assert await batcher(1) == 2
        work.gate.clear()
        calls = [asyncio.create_task(batcher(n)) for n in range(10, 17) if n != 13]
        await asyncio.sleep(0)
        assert work.batches == [[1], [10], [11]]
        work.gate.set()
        assert await asyncio.gather(*calls) == [20, 22, 24, 28, 30, 32]
        assert work.batches[3:] == [[12, 14, 15], [16]]

    asyncio.run(run())


def test_a_failed_batch_tells_its_own_callers_only() -> None:
    async def run() -> None:
        work = Doubler()
        batcher = AdaptiveBatcher(work, BatchingConfig(max_in_flight=1, max_batch=2))
        work.gate.clear()
        calls = [asyncio.create_task(batcher(n)) for n in (1, 13, 14, 15, 16)]
        await asyncio.sleep(0)
        work.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results] == [int, ValueError, ValueError, int, int]

    asyncio.run(run())


def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    async def run() -> None:
        work = Doubler()
        batcher = AdaptiveBatcher(work, BatchingConfig(max_in_flight=1, max_batch=8))
        work.gate.clear()
        first, gone, stays = (asyncio.create_task(batcher(n)) for n in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # even the one whose batch is under way
        await asyncio.sleep(0)
        work.gate.set()
        assert await stays == 6
        assert work.batches == [[1], [3]]

    asyncio.run(run())


def test_a_full_queue_refuses_at_once() -> None:
    async def run() -> None:
        work = Doubler()
        batcher = AdaptiveBatcher(work, BatchingConfig(max_in_flight=1, max_waiting=1))
        work.gate.clear()
        calls = [asyncio.create_task(batcher(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher(3)
        work.gate.set()
        assert await asyncio.gather(*calls) == [2, 4]

    asyncio.run(run())
