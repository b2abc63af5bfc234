"""A blocking client: pools of connections, one round trip to each node of a request.

Thread-safe: a connection serves one request at a time, and goes back to its pool only when every
reply of that request has been taken. One that timed out or broke is closed, so that a late reply
never answers the next request. A pooled connection that turns out to be closed (servers and middle
boxes close idle ones) is opened again once; a second failure is the caller's to handle.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

from recsys.errors import ServerError
from recsys.features.redis.address import Address, Node, parse
from recsys.features.redis.commands import Hmgets, pack
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

TIMEOUT_S = 2.0
"""Longest wait for Redis to connect and answer; callers with a deadline set their own."""
_SAME_TIMEOUT = 0.02
"""A socket's limit is set anew (a system call) when it is wrong by more than this part of it."""


def greeting(address: Address, *, to_replica: bool) -> list[bytes]:
    """Give the commands a new connection begins with."""
    commands = []
    if address.password is not None:
        names = [address.username] if address.username else []
        commands.append(pack(b"AUTH", *(name.encode() for name in [*names, address.password])))
    if address.database:
        commands.append(pack(b"SELECT", b"%d" % address.database))
    if to_replica:
        commands.append(pack(b"READONLY"))
    return commands


def refused(replies: list[Any]) -> None:
    """Raise the first error among the replies to a greeting."""
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise reply


def unreachable(address: Address, error: Exception) -> ServerError:
    """Give the error for a caller: which Redis, and what it did."""
    return ServerError(
        f"wanted features from Redis at {address}, found {type(error).__name__}: {error}; "
        "see `recsys status`"
    )


class _Connection:
    """One socket. Raises OSError when it breaks and TimeoutError when the time is up."""

    def __init__(
        self,
        address: Address,
        send: Send,
        tls: ssl.SSLContext | None,
        deadline: float,
    ) -> None:
        self.is_reused = False
        self.replies = Replies()
        self._socket = _connected(send.node, tls, deadline)
        self._timeout_s = 0.0
        try:
            if hello := greeting(address, to_replica=send.to_replica):
                first = Send(send.node, b"".join(hello), len(hello))
                self.send(first.data, deadline)
                refused(self.receive(first, deadline))
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        self._limit(deadline)
        self._socket.sendall(data)

    def _limit(self, deadline: float) -> None:
        left = _left(deadline)
        if abs(left - self._timeout_s) > _SAME_TIMEOUT * self._timeout_s:
            self._timeout_s = left
            self._socket.settimeout(left)

    def receive(self, send: Send, deadline: float) -> list[Any]:
        replies, sock = self.replies, self._socket
        replies.expect(send.num_replies, send.shapes)
        while True:
            self._limit(deadline)
            length = sock.recv_into(replies.space())
            if not length:
                raise ConnectionError("Redis closed the connection")
            taken = replies.received(length)
            if taken is not None:
                return taken

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def _close(begun: list[tuple[Send, _Connection | Exception]]) -> None:
    for _, connection in begun:
        if isinstance(connection, _Connection):
            connection.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _connected(node: Node, tls: ssl.SSLContext | None, deadline: float) -> socket.socket:
    if not node.port:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            local.settimeout(_left(deadline))
            local.connect(node.host)
        except BaseException:
            local.close()
            raise
        return local
    plain = socket.create_connection((node.host, node.port), _left(deadline))
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return plain
        return tls.wrap_socket(plain, server_hostname=node.host)
    except BaseException:
        plain.close()
        raise


class Sent:
    """Commands whose replies are still to come. Not thread-safe."""

    def __init__(
        self, client: RedisClient, sent: list[tuple[Send, list[int], _Connection | Exception]]
    ) -> None:
        self._client = client
        self._sent = sent

    def replies(self, timeout_s: float) -> list[Any] | None:
        """Wait; gives the replies, refusals and redirections among them.

        ``None`` when a server did not answer: what it did is not known.
        """
        deadline = time.monotonic() + timeout_s
        sent, self._sent = self._sent, []
        replies: list[Any] = [None] * sum(len(places) for _, places, _ in sent)
        answers = self._client.finish_all([(send, begun) for send, _, begun in sent], deadline)
        for (_, places, _), answer in zip(sent, answers, strict=True):
            if isinstance(answer, Exception):
                return None
            for place, reply in zip(places, answer, strict=True):
                replies[place] = reply
        return replies

    def drop(self) -> None:
        """Wait no longer: an answer on its way must not be taken for the next."""
        sent, self._sent = self._sent, []
        for _, _, connection in sent:
            if isinstance(connection, _Connection):
                connection.close()


class RedisClient:
    """Sends commands to the Redis of a URL, whatever stands behind it.

    Raises:
        ConfigurationError: when the URL is none, or a file of its TLS is missing.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = parse(url)
        self.topology = Topology(self.address)
        self._timeout_s = timeout_s
        self._tls = self.address.tls.context() if self.address.tls else None
        self._idle: dict[tuple[Node, bool], list[_Connection]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def call(
        self,
        keys: Sequence[bytes],
        commands: Sequence[bytes],
        *,
        read_only: bool = False,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send packed commands, the i-th about ``keys[i]``; gives their replies in order.

        A refusal is a reply too, an ``ErrorReply``. With ``read_only`` replicas may answer, where
        the URL allows it. ``timeout_s`` stands in for the client's own.

        Raises:
            ServerError: when a server does not answer, or refuses us.
        """
        if not commands:
            return []
        if self.address.is_cluster:
            steps = route(self.topology, keys, commands, read_only=read_only)
        else:
            data = b"".join(commands)
            steps = route_all(self.topology, data, len(commands), read_only=read_only)
        return self._drive(steps, timeout_s)

    def send(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Sent:
        """Send as ``call`` does, to the nodes known to have the keys, and wait for nothing.

        Few enough commands for the buffers between here and the server.
        """
        self._know()
        deadline = time.monotonic() + self._timeout_s
        sent: list[tuple[Send, list[int], _Connection | Exception]] = []
        for node, mine in self.topology.by_node(keys).items() if keys else ():
            data = b"".join([commands[place] for place in mine])
            send = Send(self.topology.nodes[node], data, len(mine))
            nobody = ConnectionError("the cluster has no node for a slot")
            sent.append((send, mine, nobody if node < 0 else self._begin(send, deadline)))
        return Sent(self, sent)

    def read(self, commands: Hmgets) -> list[Any]:
        """Give the replies to reads, which replicas may answer; ``part_of`` gives those of a group.

        Raises:
            ServerError: when a server does not answer, or refuses us.
        """
        if not len(commands):
            return []
        if self.address.is_cluster:
            each = commands.each()
            return self._drive(route(self.topology, commands.keys, each, read_only=True))
        data, count = commands.joined(), len(commands)
        if self.address.reads_replicas:
            steps = route_all(self.topology, data, count, read_only=True, shapes=commands.shapes)
            return self._drive(steps)
        # There is nothing to route; a user alone is read in some 40 us, and every step counts.
        send = Send(self.topology.nodes[0], data, count, shapes=commands.shapes)
        answer = self._one(send, time.monotonic() + self._timeout_s)
        if isinstance(answer, Exception):
            raise unreachable(self.address, answer) from answer
        return answer

    def by_node(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Give the positions of ``keys`` grouped by the node that holds them."""
        self._know()
        return list(self.topology.by_node(keys).values())

    def _know(self) -> None:
        if self.address.is_cluster and self.topology.is_stale:
            self._drive(discover(self.topology))

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _drive(self, steps: Route, timeout_s: float | None = None) -> list[Any]:
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        try:
            sends = next(steps)
            while True:
                sends = steps.send(self._exchange(sends, deadline))
        except StopIteration as done:
            replies: list[Any] = done.value
            return replies
        except (OSError, ErrorReply) as error:
            raise unreachable(self.address, error) from error

    def _exchange(self, sends: list[Send], deadline: float) -> list[Answer]:
        if sends and (pause_s := sends[0].pause_s):
            time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        if len(sends) == 1:
            return [self._one(sends[0], deadline)]
        begun: list[tuple[Send, _Connection | Exception]] = []
        try:
            for send in sends:  # all are on their way before the first is waited for
                begun.append((send, self._begin(send, deadline)))  # noqa: PERF401 (closed below)
        except BaseException:
            _close(begun)
            raise
        return self.finish_all(begun, deadline)

    def finish_all(
        self, begun: list[tuple[Send, _Connection | Exception]], deadline: float
    ) -> list[Answer]:
        """Take the answers of what was begun, each on its connection."""
        answers: list[Answer] = []
        try:
            for send, connection in begun:
                answers.append(
                    connection
                    if isinstance(connection, Exception)
                    else self._finish(send, connection, deadline)
                )
        except BaseException:
            _close(begun[len(answers) :])
            raise
        return answers

    def _begin(self, send: Send, deadline: float) -> _Connection | Exception:
        connection: _Connection | None = None
        try:
            connection = self._acquire(send, deadline)
            connection.send(send.data, deadline)
            return connection
        except (OSError, ErrorReply) as error:
            if connection is None or isinstance(error, TimeoutError) or not connection.is_reused:
                if connection is not None:
                    connection.close()
                return error
            connection.close()
            self._forget(send)
            return self._begin(send, deadline)
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def _finish(self, send: Send, connection: _Connection, deadline: float) -> Answer:
        try:
            replies = connection.receive(send, deadline)
        except OSError as error:
            connection.close()
            again = connection.is_reused and not connection.replies.has_begun
            if isinstance(error, TimeoutError) or not again:
                return error
            self._forget(send)
            return self._one(send, deadline)
        except BaseException:
            connection.close()
            raise
        connection.is_reused = True
        with self._lock:
            self._idle.setdefault((send.node, send.to_replica), []).append(connection)
        return replies

    def _one(self, send: Send, deadline: float) -> Answer:
        connection = self._begin(send, deadline)
        if isinstance(connection, Exception):
            return connection
        return self._finish(send, connection, deadline)

    def _acquire(self, send: Send, deadline: float) -> _Connection:
        with self._lock:
            if self._process != os.getpid():  # a fork shares sockets, and must not
                self._process, self._idle = os.getpid(), {}
            idle = self._idle.get((send.node, send.to_replica))
            if idle:
                return idle.pop()
        return _Connection(self.address, send, self._tls, deadline)

    def _forget(self, send: Send) -> None:
        """Close the idle connections of a node: what broke one broke them all."""
        with self._lock:
            idle = self._idle.pop((send.node, send.to_replica), [])
        for connection in idle:
            connection.close()
