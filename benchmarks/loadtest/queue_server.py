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


class _Worker:
    def __init__(self, service_s: float, pause_at: int, pause_s: float, answer: bytes) -> None:
        self._service_s = service_s
        self._pause_at, self._pause_s = pause_at, pause_s
        self._answer_bytes = answer
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
            if not transport.is_closing():  # uvloop's raises then, and the rest would wait for ever
                transport.write(self._answer_bytes)

    def close(self) -> None:
        self._timer.close()


class _Connection(asyncio.Protocol):
    def __init__(self, server: QueueServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._server.worker.take(self.transport)


class QueueServer:
    """The server on the running event loop: ``async with QueueServer(...) as server``."""

    def __init__(
        self,
        *,
        service_s: float = 0.0,
        pause_at: int = -1,
        pause_s: float = 1.0,
        body: bytes = b"{}",
        headers: str = "",
        port: int = 0,
    ) -> None:
        head = f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        self._how = (service_s, pause_at, pause_s, head + body)
        self.port = port
        self.connections: set[_Connection] = set()

    async def __aenter__(self) -> QueueServer:
        self.worker = _Worker(*self._how)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.transport.close()
        self.worker.close()
        await asyncio.sleep(0.01)  # both ends of every connection say good-bye


async def _serve(options: argparse.Namespace) -> None:
    async with QueueServer(
        service_s=options.service_ms / 1e3, pause_at=options.pause_at, pause_s=options.pause_s,
        body=options.body.encode(), headers="".join(f"{line}\r\n" for line in options.header),
        port=options.port,
    ) as server:  # fmt: skip
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loadtest.queue_server", description=__doc__
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--pause-at", type=int, default=-1)
    parser.add_argument("--pause-s", type=float, default=1.0)
    parser.add_argument("--body", default="{}", help="of every answer")
    parser.add_argument("--header", action="append", default=[], help="of every answer")
    uvloop.run(_serve(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
