"""``python -m benchmarks.loadtest.queue_server``: one worker whose every answer takes as long.

A server to try a load generator on: requests are answered one after the other in the order they
came, each ``--service-ms`` after its turn began. With Poisson arrivals that is the queue of
``md1.py``. The worker waits instead of working, by one clock: when the machine wakes it late the
next turn does not begin later, so the queue stays the known one on a machine with other work.
``--pause-at N`` stands still for ``--pause-s`` before the N-th answer. Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

import httptools
import uvloop

from benchmarks.loadtest.precise_timer import PreciseTimer

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class _Worker:
    def __init__(self, service_s: float, pause_at: int, pause_s: float) -> None:
        self._service_s = service_s
        self._pause_at, self._pause_s = pause_at, pause_s
        self._served = 0
        self._free_s = 0.0
        """When it will be done with all that came."""
        self._turns: deque[tuple[float, asyncio.Transport]] = deque()
        self._timer = PreciseTimer(self._answer)

    def take(self, transport: asyncio.Transport) -> None:
        now_s = time.perf_counter()
        self._served += 1
        if self._served == self._pause_at:
            self._free_s = max(self._free_s, now_s) + self._pause_s
        self._free_s = max(self._free_s, now_s) + self._service_s
        self._turns.append((self._free_s, transport))
        if len(self._turns) == 1:
            self._answer()

    def _answer(self) -> None:
        while self._turns:
            left_s = self._turns[0][0] - time.perf_counter()
            if left_s > 0:
                self._timer.after(left_s)
                return
            _, transport = self._turns.popleft()
            transport.write(_ANSWER)


class _Connection(asyncio.Protocol):
    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._worker.take(self._transport)


async def _serve(options: argparse.Namespace) -> None:
    worker = _Worker(options.service_ms / 1e3, options.pause_at, options.pause_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(worker), "127.0.0.1", options.port)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loadtest.queue_server", description=__doc__
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--pause-at", type=int, default=-1)
    parser.add_argument("--pause-s", type=float, default=1.0)
    uvloop.run(_serve(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
