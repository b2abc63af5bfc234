"""Hashes in Redis: many read in one round trip (to each node), blocking or on an event loop.

The connections, their pools and what happens when they break are in ``recsys/features/redis/``.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.cluster
from redis.retry import Retry

from recsys.features.hashes import Found, Wanted
from recsys.features.redis.address import parse
from recsys.features.redis.async_client import MAX_CONNECTIONS, AsyncRedisClient
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import pack, pack_wanted
from recsys.features.redis.greeting import TIMEOUT_S, unreachable
from recsys.features.redis.replies import ErrorReply

_PROBED_AT_ONCE = 64
"""Hashes that one command asks for, whether any of them is there."""
_PROBED_FROM = 1_000
"""Hashes of one read from which on that is worth a round trip of its own."""
_MOST_FOUND = 128
"""Of as many hashes at most one was there the last time: then most commands find none."""

__all__ = ["TIMEOUT_S", "AsyncRedisHashes", "RedisHashes", "RedisKeys", "connect"]


def connect(url: str, *, timeout_s: float = TIMEOUT_S, retry: Retry | None = None) -> redis.Redis:
    """Give redis-py's client of ``url``, for what is no bulk read: leases, progress, scripts.

    ``retry`` says how often it tries by itself; ``None`` leaves that to redis-py.

    Raises:
        ConfigurationError: when the URL is none.
        redis.RedisError: when ``url`` is a cluster that does not answer.
    """
    address = parse(url)
    options: dict[str, Any] = address.client_options() | {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    if retry is not None:
        options["retry"] = retry
    if address.is_cluster:
        nodes = [redis.cluster.ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
        return redis.cluster.RedisCluster(startup_nodes=nodes, **options)  # type: ignore[return-value]
    (node,) = address.nodes
    if not node.port:
        return redis.Redis(unix_socket_path=node.host, **options)
    return redis.Redis(host=node.host, port=node.port, **options)


class RedisHashes:
    """Reads hashes. Thread-safe: each read takes a connection of the pool.

    With ``from_replicas`` what is read may be a little old, where the URL names replicas; who
    writes what follows from it must not ask for that.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, from_replicas: bool = False
    ) -> None:
        self.client = RedisClient(url, timeout_s=timeout_s)
        self._from_replicas = from_replicas
        self._few_are_there = False

    def read(self, wanted: Wanted) -> Found:
        """Give the fields.

        Where many are read and the last time hardly any was there, as with entities that are met
        for the first time, it is first asked which are there at all: one short command for many.

        Raises:
            ServerError: when Redis does not answer, or a key is no hash.
        """
        if len(wanted) < _PROBED_FROM or self.client.address.is_cluster:
            return self._read(wanted)
        if self._few_are_there:
            found: Found = [[None] * len(fields) for _, fields in wanted]
            there = self._perhaps_there([key for key, _ in wanted])
            rows = self._read([wanted[n] for n in there])
            for n, row in zip(there, rows, strict=True):
                found[n] = row
        else:
            found = rows = self._read(wanted)
        num_found = len(rows) - rows.count([None] * len(wanted[0][1]))
        self._few_are_there = num_found * _MOST_FOUND < len(wanted)
        return found

    def _read(self, wanted: Wanted) -> Found:
        keys = [key for key, _ in wanted]
        replies = self.client.call(keys, pack_wanted(wanted), read_only=self._from_replicas)
        return checked(self.client, replies)

    def _perhaps_there(self, keys: list[bytes]) -> list[int]:
        """Give the places of all hashes but such that are surely not there."""
        starts = range(0, len(keys), _PROBED_AT_ONCE)
        commands = [pack(b"EXISTS", *keys[at : at + _PROBED_AT_ONCE]) for at in starts]
        first = [keys[at] for at in starts]
        counts = self.client.call(first, commands, read_only=self._from_replicas)
        return [
            n
            for at, count in zip(starts, counts, strict=True)
            if count != 0  # a refusal, too: then they are read, which says what is wrong
            for n in range(at, min(at + _PROBED_AT_ONCE, len(keys)))
        ]

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()


class RedisKeys:
    """Finds hashes by their names (``KeyFinder``): SCAN on every node, a second per million keys.

    For what is done rarely. Redis serves others in between.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def ending(self, suffix: bytes) -> list[bytes]:
        """Give the names that end so. Raises redis.RedisError when Redis does not answer."""
        return self._matching(b"*" + _literally(suffix))

    def containing(self, part: bytes) -> list[bytes]:
        """Give the names that contain ``part``. Raises redis.RedisError as ``ending``."""
        return self._matching(b"*" + _literally(part) + b"*")

    def _matching(self, pattern: bytes) -> list[bytes]:
        return sorted(set(self._client.scan_iter(match=pattern, count=5_000)))


def _literally(text: bytes) -> bytes:
    """Give the glob pattern that matches just this."""
    special = b"*?[]\\^-"
    return b"".join(
        b"\\" + text[n : n + 1] if text[n] in special else text[n : n + 1] for n in range(len(text))
    )


class AsyncRedisHashes:
    """Reads hashes on an event loop. See ``RedisHashes``."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
        from_replicas: bool = False,
    ) -> None:
        self.client = AsyncRedisClient(url, timeout_s=timeout_s, max_connections=max_connections)
        self._from_replicas = from_replicas

    async def read(self, wanted: Wanted) -> Found:
        """Give the fields.

        Raises:
            ServerError: when Redis does not answer, or a key is no hash.
        """
        keys = [key for key, _ in wanted]
        replies = await self.client.call(keys, pack_wanted(wanted), read_only=self._from_replicas)
        return checked(self.client, replies)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self.client.aclose()


def checked(client: RedisClient | AsyncRedisClient, replies: list[Any]) -> Found:
    """Give the replies; raises ServerError for the first that is a refusal."""
    if ErrorReply in set(map(type, replies)):  # by hash: the types are two at most
        raise unreachable(client.address, next(r for r in replies if type(r) is ErrorReply))
    return replies
