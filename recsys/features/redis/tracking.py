"""A connection on which one node says which keys were changed, whoever changed them.

The server's tracking for client-side caches, in broadcasting mode: it says the names of changed,
expired, evicted and deleted keys that begin with a prefix, and keeps nothing of what was read. It
says them at the end of a round of commands, after the answers to those; so an answer is proof that
all was said that was changed before the round *before* it, and it takes two.

Source: Redis documentation, "Client-side caching reference"; RESP3 specification, "Push type".
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any, NamedTuple

import hiredis

from recsys.features.redis.address import Address, Node
from recsys.features.redis.commands import pack
from recsys.features.redis.connection import connected, time_left
from recsys.features.redis.greeting import greeting, refused
from recsys.features.redis.replies import ErrorReply

_MORE = object()
_BUFFER_BYTES = 1 << 16
_PING = pack(b"PING")
_CLUSTER = pack(b"CLUSTER", b"INFO") + pack(b"CLUSTER", b"SLOTS")
Slots = tuple[tuple[int, int, bytes], ...]
"""First and last slot of each range, and the id of the node that has it."""


class Heard(NamedTuple):
    """What one node has said since it was asked last."""

    keys: list[bytes]
    """Changed keys; one may stand there several times."""
    all_changed: bool
    """The node was emptied."""
    slots: Slots
    """Of a cluster, as this node knows it; empty for one server."""


class Tracking:
    """One connection to one node. Not thread-safe.

    Raises:
        OSError: it breaks, now or later; what was changed since it was asked last is not known.
        ErrorReply: the server does not do this, or not for us.
    """

    def __init__(
        self, address: Address, node: Node, prefix: bytes, tls: ssl.SSLContext | None,
        deadline: float,
    ) -> None:  # fmt: skip
        self.node = node
        self._is_cluster = address.is_cluster
        self._reader = hiredis.Reader(replyError=ErrorReply, notEnoughData=_MORE)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._keys: list[bytes] = []
        self._all_changed = False
        self._socket = connected(node, tls, deadline)
        try:
            hello = [
                *greeting(address, to_replica=False),
                pack(b"HELLO", b"3"),
                pack(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", prefix),
            ]
            refused(self._ask(b"".join(hello), len(hello), deadline))
        except BaseException:
            self.close()
            raise

    def heard(self, deadline: float) -> Heard:
        """Give all that was changed before this call, and has not been given yet."""
        slots: Slots = ()
        if self._is_cluster:
            info, ranges = answers = self._ask(_CLUSTER, 2, deadline)
            refused(answers)
            if b"cluster_state:ok" not in info:
                raise ConnectionError(f"{self.node} is in no whole cluster")
            slots = tuple(sorted((first, last, node[2]) for first, last, node, *_ in ranges))
        else:
            refused(self._ask(_PING, 1, deadline))
        refused(self._ask(_PING, 1, deadline))
        keys, all_changed = self._keys, self._all_changed
        self._keys, self._all_changed = [], False
        return Heard(keys, all_changed, slots)

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _ask(self, data: bytes, count: int, deadline: float) -> list[Any]:
        self._socket.settimeout(time_left(deadline))
        self._socket.sendall(data)
        replies: list[Any] = []
        while len(replies) < count:
            self._socket.settimeout(time_left(deadline))
            length = self._socket.recv_into(self._buffer)
            if not length:
                raise ConnectionError("Redis closed the connection")
            try:
                self._reader.feed(self._buffer, 0, length)  # type: ignore[arg-type]
                while (reply := self._reader.gets()) is not _MORE:
                    if isinstance(reply, hiredis.PushNotification):
                        self._take(reply)
                    else:
                        replies.append(reply)
            except hiredis.ProtocolError as error:
                raise ConnectionError(f"this is no Redis: {error}") from error
        return replies

    def _take(self, push: list[Any]) -> None:
        if push[0] == b"invalidate":
            if push[1] is None:
                self._all_changed = True
            else:
                self._keys += push[1]
