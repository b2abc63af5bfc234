"""The load generator: an open loop that wakes when a request is due, writes it, and goes on.

A closed-loop tool sends the next request when the last one came back, so a stalled server is asked
less and its stall is counted once ("coordinated omission"). Here requests leave when they are due,
whatever the server does, and latency runs from that *intended* time: what the generator itself is
late by counts against the server, never for it. No task is made for a request and no time is spent
waiting (``precise_timer.py``), so that one core sends thousands a second.
``verify_generator.py`` holds it to a queue whose latencies are known.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.loadtest.http_connections import HttpConnections
from benchmarks.loadtest.precise_timer import PreciseTimer

Floats = NDArray[np.float64]
_NEVER = float("nan")
_LOOK_S = 0.05
"""How often late answers are looked for."""
FAILED = "error"
"""What the label of a request without an answer begins with."""


class Outlet(Protocol):
    """What carries requests to a service.

    It tells the pacer when one is ``sent``, and when it is ``answered`` or ``failed``: of each
    number one of the two, unless it was dropped.
    """

    async def open(self, pacer: Pacer) -> None:
        """Get ready; asked once, before the first request."""

    def send(self, number: int, request: Any) -> None:
        """Send, now or as soon as there is a way."""

    def drop(self, number: int) -> None:
        """Nobody waits for it any more."""

    async def close(self) -> None:
        """Let go of everything."""


@dataclass(kw_only=True)
class Paced:
    """What one run measured."""

    due_s: Floats
    """By request: the intended send time, from the start."""
    latency_s: Floats
    """By request, from the intended send time; NaN where none was answered in time."""
    lateness_s: Floats
    """By request: how late it was sent."""
    waited_s: Floats
    """By request: until its answer or its failure; NaN where neither came."""
    labels: list[str]
    """By request: what its answer counts as; ``error: …`` or ``unanswered``."""
    elapsed_s: float
    given_up: bool
    """Whether the run ended early because too many requests were waiting."""
    generator_cpu_s: float

    @property
    def answers(self) -> Counter[str]:
        """Requests by label."""
        return Counter(self.labels)

    def percentile_ms(self, percentile: float) -> float:
        """Give a latency percentile; a request without an answer waited for ever."""
        if not len(self.latency_s):
            return float("nan")
        waited = np.where(np.isnan(self.latency_s), np.inf, self.latency_s)
        return float(np.percentile(waited, percentile, method="higher")) * 1e3

    def late_ms(self, percentile: float) -> float:
        """Give a percentile of the generator's own lateness."""
        sent = self.lateness_s[~np.isnan(self.lateness_s)]
        return float(np.percentile(sent, percentile)) * 1e3 if len(sent) else float("nan")


Label = Callable[[int, bytes], str]
"""What an answer of a status and a body is counted as."""


def rung_of(status: int, body: bytes) -> str:
    """Count an answer by its status and the rung that gave it (``200 full``)."""
    begin = body.find(b'"rung":"') if status == 200 else -1
    if begin < 0:
        return str(status)
    end = body.find(b'"', begin + 8)
    return f"{status} {body[begin + 8 : end].decode()}"


class Pacer:
    """Sends ``requests[i]`` at ``due_s[i]`` (rising) seconds after its start.

    ``requests[i]`` is read when it is due, so a request may depend on earlier answers. Ends when
    all have an answer, have failed or were waited for ``timeout_s``, or as soon as more than
    ``max_waiting`` wait for an answer: by then the server has lost.
    """

    def __init__(
        self,
        requests: Sequence[Any],
        due_s: Floats,
        outlet: Outlet,
        *,
        timeout_s: float = 5.0,
        max_waiting: int = 2_000,
    ) -> None:
        if len(requests) != len(due_s):
            raise ValueError(f"one due time a request: found {len(requests)} and {len(due_s)}")
        self._requests, self._due_s, self._outlet = requests, due_s, outlet
        self._timeout_s, self._max_waiting = timeout_s, max_waiting
        self._count = len(due_s)
        self.latency_s = np.full(self._count, _NEVER)
        self.lateness_s = np.full(self._count, _NEVER)
        self.waited_s = np.full(self._count, _NEVER)
        self.labels: list[str] = [""] * self._count
        self.ended: list[int] = []
        """Numbers of the requests that are answered or failed, in that order."""
        self.num_due = 0
        """How many have fallen due so far."""
        self._under_way: deque[int] = deque()
        self.num_open = 0
        """Sent or waiting, and not answered."""
        self.given_up = False
        self.done: asyncio.Future[None] | None = None

    async def run(self, start: float | None = None) -> Paced:
        """Send and wait; ``start`` is a reading of ``perf_counter``, by default the next one."""
        loop = asyncio.get_running_loop()
        cpu_s = time.process_time()
        self.done = loop.create_future()
        await self._outlet.open(self)
        self.start = start or time.perf_counter() + 0.01
        timer = PreciseTimer(self._tick)
        self._timer = timer
        self._tick()
        while not self.done.done():
            self._expire()
            await asyncio.wait([self.done], timeout=_LOOK_S)
        timer.close()
        elapsed_s = time.perf_counter() - self.start
        await self._outlet.close()
        self.done.result()  # raises what making a request has raised
        sent = self.num_due
        for number in range(sent):
            if not self.labels[number]:
                self.labels[number] = "unanswered"
        return Paced(
            due_s=self._due_s[:sent],
            latency_s=self.latency_s[:sent],
            lateness_s=self.lateness_s[:sent],
            waited_s=self.waited_s[:sent],
            labels=self.labels[:sent],
            elapsed_s=elapsed_s,
            given_up=self.given_up,
            generator_cpu_s=time.process_time() - cpu_s,
        )

    def stop(self) -> None:
        """Send no more; those under way are waited for."""
        self._count = self.num_due
        self._look_done()

    def sent(self, number: int) -> None:
        """Note that a request has left."""
        self.lateness_s[number] = time.perf_counter() - self.start - self._due_s[number]

    def answered(self, number: int, label: str) -> None:
        """Note an answer."""
        self.latency_s[number] = time.perf_counter() - self.start - self._due_s[number]
        self._end(number, label)

    def failed(self, number: int, why: str) -> None:
        """Note that no answer will come."""
        self._end(number, f"{FAILED}: {why}")

    def _end(self, number: int, label: str) -> None:
        if self.labels[number]:
            return
        self.waited_s[number] = time.perf_counter() - self.start - self._due_s[number]
        self.labels[number] = sys.intern(label)  # there are few, and each is kept for long
        self.ended.append(number)
        self.num_open -= 1
        self._look_done()

    def _tick(self) -> None:
        if self.done is None or self.done.done():
            return
        try:
            self._send_due()
        except Exception as error:  # noqa: BLE001  the event loop would log it, and wait for ever
            self.done.set_exception(error)
            return
        if self.num_open > self._max_waiting:
            self.given_up = True
            self.done.set_result(None)
        elif self.num_due < self._count:
            self._timer.after(self._due_s[self.num_due] - (time.perf_counter() - self.start))
        else:
            self._look_done()

    def _send_due(self) -> None:
        now, due, number = time.perf_counter() - self.start, self._due_s, self.num_due
        while number < self._count and due[number] <= now:
            self.num_due = number + 1
            self.num_open += 1
            self._under_way.append(number)
            self._outlet.send(number, self._requests[number])
            number += 1

    def _expire(self) -> None:
        late = time.perf_counter() - self.start - self._timeout_s
        while self._under_way:
            number = self._under_way[0]
            if not self.labels[number]:
                if self._due_s[number] > late:
                    return
                self._outlet.drop(number)
                self.failed(number, "timeout")
            self._under_way.popleft()

    def _look_done(self) -> None:
        if self.done is None or self.done.done():
            return
        if self.num_due >= self._count and self.num_open == 0:
            self.done.set_result(None)


def paced_http(
    requests: Sequence[bytes],
    due_s: Floats,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 5.0,
    max_waiting: int = 2_000,
    label: Label = rung_of,
) -> Pacer:
    """Give what sends prepared bytes over HTTP/1.1 when it is run. See ``Pacer``."""
    connections = HttpConnections(
        host, port, tls, read=lambda _number, status, body, _timing: label(status, body),
        num_ready=min(64, max_waiting),
    )  # fmt: skip
    return Pacer(requests, due_s, connections, timeout_s=timeout_s, max_waiting=max_waiting)
