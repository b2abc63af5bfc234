"""The smallest HTTP/1.1 client that keeps connections alive, for callers who wait for each answer.

httpx spends about a millisecond of CPU a request, which on two cores would be measured as the
server's. This one writes prepared bytes and parses the answer with httptools.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import NamedTuple, cast

import httptools

from benchmarks.loadtest.http_request import prepare


class Answer(NamedTuple):
    """What is read of one response."""

    status: int
    body: bytes
    timing: bytes
    """Its ``Server-Timing`` header; empty without."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._timing = b""
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"answer is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or ConnectionError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server-timing":
            self._timing = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.is_open = False
        answer, self._answer = self._answer, None
        body, self._body = b"".join(self._body), []
        timing, self._timing = self._timing, b""
        self._parser = httptools.HttpResponseParser(self)
        if answer is not None and not answer.done():
            answer.set_result(Answer(status, body, timing))

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


class ConnectionPool:
    """Keep-alive connections to one address, opened when none is free."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None = None, *, keeps: bool = True
    ) -> None:
        """``keeps`` false: each request has a connection of its own, closed after its answer."""
        self._host, self._port, self._tls, self._keeps = host, port, tls, keeps
        self._free: deque[_Connection] = deque()
        self.num_opened = 0

    async def send(self, request: bytes, *, timeout_s: float) -> Answer:
        """Send prepared bytes and give the answer. Raises OSError or TimeoutError."""
        async with asyncio.timeout(timeout_s):
            connection = await self._take()
            try:
                answer = await connection.send(request)
            except BaseException:
                connection.close()
                raise
        if connection.is_open and self._keeps:
            self._free.append(connection)
        else:
            connection.close()
        return answer

    async def _take(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                return connection
        self.num_opened += 1
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, self._host, self._port, ssl=self._tls
        )
        return connection

    def close(self) -> None:
        """Close every idle connection."""
        while self._free:
            self._free.pop().close()


def prepare_post(host: str, port: int, path: str, body: bytes, api_key: str | None = None) -> bytes:
    """Give the bytes of a JSON POST."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return prepare("POST", path, body, host=f"{host}:{port}", headers=headers)
