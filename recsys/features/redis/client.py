"""A blocking client: pools of connections, one round trip to each node of a request.

Thread-safe: a connection serves one request at a time, and goes back to its pool only when every
reply of that request has been taken. One that timed out or broke is closed, so that a late reply
never answers the next request. A pooled connection that turns out to be closed (servers and middle
boxes close idle ones) is opened again once; a second failure is the caller's to handle.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from recsys.features.redis.address import Node, parse
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.connection import Connection
from recsys.features.redis.greeting import TIMEOUT_S, unreachable
from recsys.features.redis.replies import ErrorReply
from recsys.features.redis.routing import (
    Answer,
    Route,
    Send,
    Topology,
    discover,
    route,
    route_all,
)


class Sent:
    """Commands whose replies are still to come. Not thread-safe."""

    def __init__(
        self, client: RedisClient, sent: list[tuple[Send, list[int], Connection | Exception]]
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
            if isinstance(connection, Connection):
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
        self.tls = self.address.tls.context() if self.address.tls else None
        self._idle: dict[tuple[Node, bool], list[Connection]] = {}
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
        sent: list[tuple[Send, list[int], Connection | Exception]] = []
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

    def masters(self) -> tuple[Node, ...]:
        """Ask a cluster who has its slots now; gives the one server there is otherwise.

        Raises:
            ServerError: when no node answers.
        """
        self.topology.doubt()
        self._know()
        return self.topology.nodes

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
        begun: list[tuple[Send, Connection | Exception]] = []
        try:
            for send in sends:  # all are on their way before the first is waited for
                begun.append((send, self._begin(send, deadline)))  # noqa: PERF401 (closed below)
        except BaseException:
            _close(begun)
            raise
        return self.finish_all(begun, deadline)

    def finish_all(
        self, begun: list[tuple[Send, Connection | Exception]], deadline: float
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

    def _begin(self, send: Send, deadline: float) -> Connection | Exception:
        connection: Connection | None = None
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

    def _finish(self, send: Send, connection: Connection, deadline: float) -> Answer:
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

    def _acquire(self, send: Send, deadline: float) -> Connection:
        with self._lock:
            if self._process != os.getpid():  # a fork shares sockets, and must not
                self._process, self._idle = os.getpid(), {}
            idle = self._idle.get((send.node, send.to_replica))
            if idle:
                return idle.pop()
        return Connection(self.address, send, self.tls, deadline)

    def _forget(self, send: Send) -> None:
        """Close the idle connections of a node: what broke one broke them all."""
        with self._lock:
            idle = self._idle.pop((send.node, send.to_replica), [])
        for connection in idle:
            connection.close()


def _close(begun: list[tuple[Send, Connection | Exception]]) -> None:
    for _, connection in begun:
        if isinstance(connection, Connection):
            connection.close()
