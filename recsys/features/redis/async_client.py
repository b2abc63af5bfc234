"""The asyncio twin of ``client.py``: the same routing and the same parser, other sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from recsys.features.redis.address import Address, Node, parse
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.greeting import TIMEOUT_S, greeting, refused, unreachable
from recsys.features.redis.regular_rows import RowShape
from recsys.features.redis.replies import ErrorReply, Replies
from recsys.features.redis.routing import (
    Answer,
    Route,
    Send,
    Topology,
    discover,
    route,
    route_all,
)
from recsys.time_limit import limited

T = TypeVar("T")

MAX_CONNECTIONS = 64
"""To one node; requests beyond it wait for their turn within their time."""


class _Connection(asyncio.BufferedProtocol):
    """One connection; serves one request at a time."""

    def __init__(self) -> None:
        self.is_reused = False
        self.replies = Replies()
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._transport: asyncio.Transport | None = None
        self._broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.replies.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            taken = self.replies.received(nbytes)
        except ConnectionError as error:
            self._break(error)
            return
        if taken is not None and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(taken)

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(exc or ConnectionError("Redis closed the connection"))

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or error
        self.close()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    async def exchange(self, send: Send) -> list[Any]:
        """Send and give the replies. Cancelled in between, it closes."""
        if self._broken is not None or self._transport is None:
            raise ConnectionError(str(self._broken))
        self.replies.expect(send.num_replies, send.shapes)
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(send.data)
        try:
            replies: list[Any] = await waiter
            return replies
        except BaseException:
            self._waiter = None
            self.close()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _connected(address: Address, send: Send, tls: ssl.SSLContext | None) -> _Connection:
    loop = asyncio.get_running_loop()
    node = send.node
    if not node.port:
        _, connection = await loop.create_unix_connection(_Connection, node.host)
    elif tls is None:
        _, connection = await loop.create_connection(_Connection, node.host, node.port)
    else:
        _, connection = await loop.create_connection(
            _Connection, node.host, node.port, ssl=tls, server_hostname=node.host
        )
    try:
        if hello := greeting(address, to_replica=send.to_replica):
            refused(await connection.exchange(Send(node, b"".join(hello), len(hello))))
    except BaseException:
        connection.close()
        raise
    return connection


class AsyncRedisClient:
    """Sends commands to the Redis of a URL from an event loop. See ``RedisClient``."""

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.address = parse(url)
        self.topology = Topology(self.address)
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._tls = self.address.tls.context() if self.address.tls else None
        self._idle: dict[tuple[Node, bool], list[_Connection]] = {}
        self._places: dict[Node, asyncio.Semaphore] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(
        self,
        keys: Sequence[bytes],
        commands: Sequence[bytes],
        *,
        read_only: bool = False,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send packed commands, the i-th about ``keys[i]``. See ``RedisClient.call``."""
        if not commands:
            return []
        if self.address.is_cluster:
            steps = route(self.topology, keys, commands, read_only=read_only)
            return await self._drive(steps, timeout_s)
        return await self._of_one_server(b"".join(commands), len(commands), read_only, timeout_s)

    async def read(self, commands: Hmgets) -> list[Any]:
        """Give the replies to reads. See ``RedisClient.read``."""
        if not len(commands):
            return []
        if self.address.is_cluster:
            steps = route(self.topology, commands.keys, commands.each(), read_only=True)
            return await self._drive(steps)
        return await self._of_one_server(
            commands.joined(), len(commands), read_only=True, shapes=commands.shapes
        )

    async def by_node(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Give the positions of ``keys`` grouped by the node that holds them."""
        if self.address.is_cluster and self.topology.is_stale:
            await self._drive(discover(self.topology))
        return list(self.topology.by_node(keys).values())

    async def aclose(self) -> None:
        """Let go of the connections."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()
        await asyncio.sleep(0)  # the loop closes the sockets on its next turn

    async def _of_one_server(
        self,
        data: bytes,
        count: int,
        read_only: bool,
        timeout_s: float | None = None,
        shapes: tuple[tuple[int, RowShape], ...] = (),
    ) -> list[Any]:
        if read_only and self.address.reads_replicas:
            steps = route_all(self.topology, data, count, read_only=True, shapes=shapes)
            return await self._drive(steps, timeout_s)
        # There is nothing to route, and every step counts for a user who is read alone.
        send = Send(self.topology.nodes[0], data, count, shapes=shapes)
        answer = await self._in_time(self._one(send), timeout_s)
        if isinstance(answer, Exception):
            raise unreachable(self.address, answer) from answer
        return answer

    async def _drive(self, steps: Route, timeout_s: float | None = None) -> list[Any]:
        return await self._in_time(self._followed(steps), timeout_s)

    async def _in_time(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # connections belong to the loop that opened them
            self._loop, self._idle, self._places = loop, {}, {}
        try:
            seconds = self._timeout_s if timeout_s is None else timeout_s
            return await limited(seconds, work)
        except TimeoutError as error:
            self.topology.doubt()
            raise unreachable(self.address, TimeoutError("timed out")) from error
        except (OSError, ErrorReply) as error:
            raise unreachable(self.address, error) from error

    async def _followed(self, steps: Route) -> list[Any]:
        try:
            sends = next(steps)
            while True:
                if sends and sends[0].pause_s:
                    await asyncio.sleep(sends[0].pause_s)
                if len(sends) == 1:
                    answers: list[Answer] = [await self._one(sends[0])]
                else:
                    answers = await asyncio.gather(*map(self._one, sends))
                sends = steps.send(answers)
        except StopIteration as done:
            replies: list[Any] = done.value
            return replies

    async def _one(self, send: Send) -> Answer:
        places = self._places.get(send.node)
        if places is None:
            places = self._places[send.node] = asyncio.Semaphore(self._max_connections)
        async with places:
            while True:
                idle = self._idle.setdefault((send.node, send.to_replica), [])
                connection = idle.pop() if idle else None
                try:
                    if connection is None:
                        connection = await _connected(self.address, send, self._tls)
                    replies = await connection.exchange(send)
                except asyncio.CancelledError:
                    self.topology.doubt(send.node)  # most likely it is what took so long
                    raise
                except (OSError, ErrorReply) as error:
                    again = (
                        connection is not None
                        and connection.is_reused
                        and not connection.replies.has_begun
                    )
                    if not again:
                        return error
                    for broken in self._idle.pop((send.node, send.to_replica), []):
                        broken.close()  # what broke one broke them all
                    continue
                connection.is_reused = True
                self._idle.setdefault((send.node, send.to_replica), []).append(connection)
                return replies
