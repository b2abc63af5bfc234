"""Send each request when it is due and record how long after that its answer came."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from benchmarks.loadtest.connection import Answer, ConnectionPool

_HIGHEST_US = 60_000_000
_SPIN_S = 0.0005
"""asyncio's timers are coarse: sleep to within this of the due time, then yield until it is due."""


@dataclass(kw_only=True)
class Outcome:
    """What one run measured. Latencies are microseconds from the intended send time."""

    histogram: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, _HIGHEST_US, 3))
    statuses: Counter[str] = field(default_factory=Counter)
    num_sent: int = 0
    elapsed_s: float = 0.0
    worst_send_delay_us: int = 0
    """How late the generator itself was at worst: large means that it was the bottleneck."""
    send_delays: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, _HIGHEST_US, 3))

    def percentile_ms(self, percentile: float) -> float:
        """Give a latency percentile in milliseconds; NaN when nothing was answered."""
        if self.histogram.get_total_count() == 0:
            return float("nan")
        return float(self.histogram.get_value_at_percentile(percentile)) / 1e3


async def run_open_loop(
    requests: Sequence[bytes],
    due_s: NDArray[np.float64],
    pool: ConnectionPool,
    *,
    timeout_s: float = 5.0,
    on_answer: Callable[[Answer], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send ``requests[i]`` at ``due_s[i]`` seconds from now and await every answer.

    A failed or timed-out request counts as ``error:<type>`` and its latency is recorded too: a
    user who waited in vain has waited.
    """
    if len(requests) != len(due_s):
        raise ValueError(f"one due time a request: found {len(requests)} and {len(due_s)}")
    outcome = Outcome()
    running: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def one(request: bytes, due: float) -> None:
        sent = time.perf_counter()
        delay_us = max(1, int((sent - due) * 1e6))
        outcome.send_delays.record_value(min(delay_us, _HIGHEST_US))
        outcome.worst_send_delay_us = max(outcome.worst_send_delay_us, delay_us)
        try:
            answer = await pool.send(request, timeout_s=timeout_s)
        except (OSError, TimeoutError) as error:
            outcome.statuses[f"error:{type(error).__name__}"] += 1
        else:
            outcome.statuses[str(answer.status)] += 1
            if on_answer is not None:
                on_answer(answer)
        waited_us = int((time.perf_counter() - due) * 1e6)
        outcome.histogram.record_value(min(max(1, waited_us), _HIGHEST_US))

    for number, (request, offset) in enumerate(zip(requests, due_s, strict=True)):
        due = start + float(offset)
        while (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait - _SPIN_S if wait > _SPIN_S else 0)
        task = asyncio.create_task(one(request, due))
        running.add(task)
        task.add_done_callback(running.discard)
        outcome.num_sent += 1
        if on_progress is not None and number % 50 == 0:
            on_progress(number)
    if running:
        await asyncio.gather(*running)
    outcome.elapsed_s = time.perf_counter() - start
    return outcome
