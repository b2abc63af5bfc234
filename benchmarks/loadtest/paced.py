"""A generator that costs little: prepared bytes, one timer, no task for each request.

``open_loop.run_open_loop`` waits for each due time to within microseconds and gives each request a
task, which at a thousand requests a second is most of a core. This one is for the rates at which
servers on the same two cores are at their limit: it wakes up when something is due
(``precise_timer.py``) and writes. Latency still runs from the intended send time, so what the
generator is late by counts against the server, never for it. ``verify_generator.py`` holds it to
a queue whose latencies are known.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools
import numpy as np
from numpy.typing import NDArray

from benchmarks.loadtest.precise_timer import PreciseTimer

Floats = NDArray[np.float64]
_NEVER = float("nan")


@dataclass(kw_only=True)
class Paced:
    """What one run measured."""

    latency_s: Floats
    """By request, from the intended send time; NaN where none was answered in time."""
    lateness_s: Floats
    """By request: how late it was sent."""
    answers: Counter[str]
    """By status and rung (``200 full``); ``unanswered`` for the rest."""
    elapsed_s: float
    given_up: bool
    """Whether the run ended early because too many requests were waiting."""
    generator_cpu_s: float

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
    """Count an answer by its status and the rung that gave it."""
    begin = body.find(b'"rung":"') if status == 200 else -1
    if begin < 0:
        return str(status)
    end = body.find(b'"', begin + 8)
    return f"{status} {body[begin + 8 : end].decode()}"


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.transport: asyncio.Transport | None = None
        self.number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._run.answered(self, self._parser.get_status_code(), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self)


@dataclass(kw_only=True)
class _Run:
    requests: Sequence[bytes]
    due_s: Floats
    host: str
    port: int
    max_waiting: int
    label: Label
    latency_s: Floats = field(init=False)
    lateness_s: Floats = field(init=False)
    answers: Counter[str] = field(default_factory=Counter)
    free: list[_Connection] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    """Due, and without a connection yet."""
    connections: list[_Connection] = field(default_factory=list)
    opening: set[asyncio.Task[None]] = field(default_factory=set)
    num_open: int = 0
    """Sent or waiting, and not answered."""
    next: int = 0
    given_up: bool = False

    def __post_init__(self) -> None:
        self.latency_s = np.full(len(self.requests), _NEVER)
        self.lateness_s = np.full(len(self.requests), _NEVER)

    async def run(self) -> float:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.loop = loop
        # Enough for what may be on its way at once; opened beforehand.
        await asyncio.gather(*(self._open() for _ in range(min(64, self.max_waiting))))
        self.start = time.perf_counter() + 0.01
        self.timer = PreciseTimer(self._tick)
        self._tick()
        await self.done
        self.timer.close()
        elapsed_s = time.perf_counter() - self.start
        for connection in self.connections:
            assert connection.transport is not None
            connection.transport.close()
        await asyncio.gather(*self.opening)
        await asyncio.sleep(0)  # lets go of the sockets
        return elapsed_s

    async def _open(self) -> None:
        try:
            _, connection = await self.loop.create_connection(
                lambda: _Connection(self), self.host, self.port
            )
        except OSError:
            self.answers["not connected"] += 1
            return
        self.connections.append(connection)
        if self.done.done():
            assert connection.transport is not None
            connection.transport.close()
        else:
            self._give_back(connection)

    def _give_back(self, connection: _Connection) -> None:
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def _tick(self) -> None:
        if self.done.done():
            return
        now = time.perf_counter() - self.start
        due, count = self.due_s, len(self.due_s)
        while self.next < count and due[self.next] <= now:
            number = self.next
            self.next += 1
            self.num_open += 1
            if self.free:
                self._send(self.free.pop(), number)
            else:
                self.waiting.append(number)
                opening = self.loop.create_task(self._open())
                self.opening.add(opening)
                opening.add_done_callback(self.opening.discard)
        if self.num_open > self.max_waiting:
            self.given_up = True
            self.done.set_result(None)
        elif self.next < count:
            self.timer.after(due[self.next] - (time.perf_counter() - self.start))
        else:
            self.loop.call_later(5.0, self._finish)
            self._look_done()

    def _send(self, connection: _Connection, number: int) -> None:
        connection.number = number
        assert connection.transport is not None
        connection.transport.write(self.requests[number])
        self.lateness_s[number] = time.perf_counter() - self.start - self.due_s[number]

    def answered(self, connection: _Connection, status: int, body: bytes) -> None:
        number, connection.number = connection.number, -1
        self.latency_s[number] = time.perf_counter() - self.start - self.due_s[number]
        self.answers[self.label(status, body)] += 1
        self.num_open -= 1
        self._give_back(connection)
        self._look_done()

    def lost(self, connection: _Connection) -> None:
        if self.done.done():
            return
        if connection.number >= 0:
            self.answers["connection lost"] += 1
            self.num_open -= 1
            connection.number = -1
            self.connections.remove(connection)
            self._look_done()
        elif connection in self.free:
            self.free.remove(connection)
            self.connections.remove(connection)

    def _look_done(self) -> None:
        if self.next >= len(self.due_s) and self.num_open == 0:
            self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run_paced(
    requests: Sequence[bytes],
    due_s: Floats,
    *,
    host: str,
    port: int,
    max_waiting: int = 2_000,
    label: Label = rung_of,
) -> Paced:
    """Send ``requests[i]`` at ``due_s[i]`` (rising) seconds from now.

    Ends when all are answered, five seconds after the last was sent, or as soon as more than
    ``max_waiting`` wait for an answer: by then the server has lost.
    """
    if len(requests) != len(due_s):
        raise ValueError(f"one due time a request: found {len(requests)} and {len(due_s)}")
    run = _Run(requests=requests, due_s=due_s, host=host, port=port, max_waiting=max_waiting,
               label=label)  # fmt: skip
    cpu_s = time.process_time()
    elapsed_s = await run.run()
    if run.num_open:
        run.answers["unanswered"] += run.num_open
    sent = run.next
    return Paced(
        latency_s=run.latency_s[:sent],
        lateness_s=run.lateness_s[:sent],
        answers=run.answers,
        elapsed_s=elapsed_s,
        given_up=run.given_up,
        generator_cpu_s=time.process_time() - cpu_s,
    )
