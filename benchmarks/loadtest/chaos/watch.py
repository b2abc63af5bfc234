"""What callers saw, second by second: answers by rung, errors by kind, latencies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np

from benchmarks.loadtest.connection import ConnectionPool

SPIN_S = 0.0005
"""Timers are late by up to a millisecond: the last half of one is waited for by asking."""


class _RungOnly(msgspec.Struct):
    rung: str = "unknown"
    degraded: str = ""


_decode = msgspec.json.Decoder(_RungOnly).decode


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as its sender saw it."""

    due_s: float
    """When it was due, from the start."""
    waited_s: float
    """From then to its answer."""
    what: str
    """The rung, the status of a refusal, or ``error:<type>``."""
    degraded: str = ""
    sent_late_s: float = 0.0
    """How late the sender itself was."""


@dataclass
class Watch:
    """All requests of a run."""

    seen: list[Seen] = field(default_factory=list)

    def by_second(self) -> dict[int, Counter[str]]:
        """Give what came, by the second it was due in."""
        table: dict[int, Counter[str]] = {}
        for one in self.seen:
            table.setdefault(int(one.due_s), Counter())[one.what] += 1
        return table

    def between(self, begin_s: float, end_s: float) -> list[Seen]:
        """Give the requests that were due then."""
        return [one for one in self.seen if begin_s <= one.due_s < end_s]


def quantile_ms(seen: list[Seen], quantile: float) -> float:
    """Give a quantile of the waiting times in milliseconds; NaN of none."""
    if not seen:
        return float("nan")
    return float(np.quantile([one.waited_s for one in seen], quantile)) * 1e3


async def send_open_loop(
    requests: list[bytes],
    due_s: list[float],
    pool: ConnectionPool,
    watch: Watch,
    *,
    timeout_s: float,
    start_s: float,
    spin_s: float = SPIN_S,
) -> None:
    """Send each request when it is due, ``start_s`` of ``perf_counter`` being 0, whatever comes.

    ``spin_s``: 0 where requests follow each other so closely that a core would do nothing else.
    """
    running: set[asyncio.Task[None]] = set()

    async def one(request: bytes, due: float) -> None:
        degraded = ""
        late_s = time.perf_counter() - start_s - due
        try:
            answer = await pool.send(request, timeout_s=timeout_s)
        except (OSError, TimeoutError) as error:
            what = f"error:{type(error).__name__}"
        else:
            what = str(answer.status)
            if answer.status == 200:
                body = _decode(answer.body)
                what, degraded = body.rung, body.degraded
        waited_s = time.perf_counter() - start_s - due
        watch.seen.append(Seen(due, waited_s, what, degraded, late_s))

    for request, due in zip(requests, due_s, strict=True):
        while (wait := start_s + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait - spin_s if wait > spin_s else 0)
        task = asyncio.create_task(one(request, due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.gather(*running)
