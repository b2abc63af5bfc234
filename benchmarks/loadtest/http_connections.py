"""Keep-alive HTTP/1.1 connections for the generator: prepared bytes go out, answers are told.

A request goes over a free connection, the one used last; where none is free it waits for the first
that is, and another is opened for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

if TYPE_CHECKING:
    from benchmarks.loadtest.paced import Pacer

Read = Callable[[int, int, bytes, bytes], str]
"""Of a request's number, and its answer's status, body and ``Server-Timing``: what it counts as."""


class _Connection(asyncio.Protocol):
    def __init__(self, pool: HttpConnections) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.timing = b""
        self.transport: asyncio.Transport | None = None
        self.number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._pool.lost(self, "not HTTP")
            self.end()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        timing, self.timing = self.timing, b""
        parser = self._parser
        self._pool.read(self, parser.get_status_code(), body, timing, parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self, "connection lost")

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _TimedConnection(_Connection):
    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server-timing":
            self.timing += b"," + value if self.timing else value


class HttpConnections:
    """Connections to one address. See ``paced.Outlet``."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        read: Read,
        num_ready: int = 64,
        with_timing: bool = False,
    ) -> None:
        """``num_ready`` connections are opened beforehand."""
        self._host, self._port, self._tls = host, port, tls
        self._read, self._num_ready = read, num_ready
        self._kind = _TimedConnection if with_timing else _Connection
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._busy: dict[int, _Connection] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self, pacer: Pacer) -> None:
        """Open the first connections; that none can be opened shows in the requests."""
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._open() for _ in range(self._num_ready)))

    def send(self, number: int, request: bytes) -> None:
        """Write now, or when a connection is there."""
        if self._free:
            self._write(self._free.pop(), number, request)
        else:
            self._waiting.append((number, request))
            self._open_another()

    def drop(self, number: int) -> None:
        """End the connection the answer would come over: it would be taken for the next one's."""
        connection = self._busy.pop(number, None)
        if connection is None:
            self._waiting = deque(one for one in self._waiting if one[0] != number)
            return
        connection.number = -1
        self._all.discard(connection)
        connection.end()

    async def close(self) -> None:
        """End all connections."""
        self._is_closed = True
        for connection in self._all:
            assert connection.transport is not None
            connection.transport.close()
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await asyncio.sleep(0)  # lets go of the sockets

    def read(
        self, connection: _Connection, status: int, body: bytes, timing: bytes, keeps: bool
    ) -> None:
        """Take an answer from a connection."""
        number, connection.number = connection.number, -1
        if number < 0:
            return
        del self._busy[number]
        self._pacer.answered(number, self._read(number, status, body, timing))
        if keeps:
            self._give_back(connection)
        else:
            self._all.discard(connection)
            connection.end()
            if self._waiting:
                self._open_another()

    def lost(self, connection: _Connection, why: str) -> None:
        """Do without a connection."""
        self._all.discard(connection)
        if self._is_closed:
            return
        if connection in self._free:
            self._free.remove(connection)
        number, connection.number = connection.number, -1
        if number >= 0:
            del self._busy[number]
            self._pacer.failed(number, why)

    def _write(self, connection: _Connection, number: int, request: bytes) -> None:
        connection.number = number
        self._busy[number] = connection
        assert connection.transport is not None
        connection.transport.write(request)
        self._pacer.sent(number)

    def _give_back(self, connection: _Connection) -> None:
        if self._waiting:
            self._write(connection, *self._waiting.popleft())
        else:
            self._free.append(connection)

    def _open_another(self) -> None:
        opening = self._loop.create_task(self._open())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: self._kind(self), self._host, self._port, ssl=self._tls
            )
        except OSError as error:
            if self._waiting and not self._is_closed:  # each that waits has an attempt of its own
                number, _ = self._waiting.popleft()
                self._pacer.failed(number, f"not connected ({type(error).__name__})")
            return
        if self._is_closed:
            connection.end()
        else:
            self._all.add(connection)
            self._give_back(connection)
