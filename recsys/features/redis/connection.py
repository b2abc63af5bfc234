"""One blocking connection to one node, opened, greeted and used within a deadline.

Which connection serves a request, and what becomes of it afterwards, is the client's business.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from time import monotonic
from typing import Any

from recsys.features.redis.address import Address, Node
from recsys.features.redis.greeting import greeting, refused
from recsys.features.redis.replies import Replies
from recsys.features.redis.routing import Send

_SAME_TIMEOUT = 0.02
"""A socket's limit is set anew (a system call) when it is wrong by more than this part of it."""


class Connection:
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
        self._socket = connected(send.node, tls, deadline)
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
        """Send all of it."""
        self._limit(deadline)
        self._socket.sendall(data)

    def _limit(self, deadline: float) -> None:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if abs(left - self._timeout_s) > _SAME_TIMEOUT * self._timeout_s:
            self._timeout_s = left
            self._socket.settimeout(left)

    def receive(self, send: Send, deadline: float) -> list[Any]:
        """Give the replies to what was sent."""
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
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()


def time_left(deadline: float) -> float:
    """Give the seconds until ``deadline``. Raises TimeoutError when there are none."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def connected(node: Node, tls: ssl.SSLContext | None, deadline: float) -> socket.socket:
    """Give a socket to a node. Raises OSError when it cannot be reached in time."""
    if not node.port:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            local.settimeout(time_left(deadline))
            local.connect(node.host)
        except BaseException:
            local.close()
            raise
        return local
    plain = socket.create_connection((node.host, node.port), time_left(deadline))
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return plain
        return tls.wrap_socket(plain, server_hostname=node.host)
    except BaseException:
        plain.close()
        raise
