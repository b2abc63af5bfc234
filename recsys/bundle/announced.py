"""Who serves which bundles: each API process says so, and whoever unloads bundles looks first.

One hash of Redis, a field for each process; what was said ``LAPSES_MS`` ago counts no longer, and
is removed by the next who looks. So a bundle that a process somewhere still answers with is not
taken from under it, and ``recsys publish`` can tell when the last process has taken the new one up.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from recsys.clock import Clock, now_ms
from recsys.features.redis.commands import pack

LAPSES_MS = 5_000
"""Five announcements of one process."""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What one process serves."""

    live: str | None
    """Answers what is assigned to none; ``None`` while nothing is published."""
    beside: list[str] = []
    """Answer what is assigned to them."""
    held: list[str] = []
    """These, the live one of before, and those that a request still runs on."""


class _Said(msgspec.Struct, frozen=True):
    at_ms: int
    what: Announcement


class Redis(Protocol):
    """What is asked of Redis; see ``AsyncRedisClient.call``."""

    async def call(self, keys: list[bytes], commands: list[bytes]) -> list[Any]:
        """Send commands."""


_decoder = msgspec.json.Decoder(_Said)
_encode = msgspec.json.Encoder().encode


class Announcements:
    """The hash of one namespace."""

    def __init__(self, redis: Redis, namespace: str, *, clock: Clock = now_ms) -> None:
        self._redis = redis
        self._key = f"{namespace}:serving".encode()
        self._clock = clock
        self._instance = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}".encode()

    async def announce(self, what: Announcement) -> None:
        """Say what this process serves.

        Raises:
            ServerError: when Redis does not answer.
        """
        said = _encode(_Said(self._clock(), what))
        await self._send(pack(b"HSET", self._key, self._instance, said))

    async def withdraw(self) -> None:
        """Say that this process serves no longer."""
        await self._send(pack(b"HDEL", self._key, self._instance))

    async def present(self) -> Mapping[str, Announcement]:
        """Give what each process serves, by its name; clocks of machines may be seconds apart.

        Raises:
            ServerError: when Redis does not answer.
        """
        flat = await self._send(pack(b"HGETALL", self._key))
        found: dict[str, Announcement] = {}
        lapsed: list[bytes] = []
        for instance, data in zip(flat[::2], flat[1::2], strict=True):
            try:
                said = _decoder.decode(data)
            except msgspec.MsgspecError:  # of a version to come
                continue
            if self._clock() - said.at_ms > LAPSES_MS:
                lapsed.append(instance)
            else:
                found[instance.decode(errors="replace")] = said.what
        if lapsed:
            await self._send(pack(b"HDEL", self._key, *lapsed))
        return found

    async def _send(self, command: bytes) -> Any:
        (answer,) = await self._redis.call([self._key], [command])
        return answer
