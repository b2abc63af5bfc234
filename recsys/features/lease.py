"""One writer at a time: a lease in Redis whose token every write must show.

The token is checked by the very script that writes, so a worker that was stopped and wakes up
after another took over cannot write a single byte more. A standby waits in ``acquire``.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import redis

from recsys.errors import RecsysError
from recsys.features.hashes import Write

LEASE_MS = 3_000
"""How long a lease lives without a renewal: the pause before a standby takes over from a killed
worker. Renewed at a third of it."""
_CHUNK = 256
"""Entities written in one script: bounds how long Redis serves nobody else to a few ms."""

_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local at = 3
for i = 2, #KEYS do
  local n = tonumber(ARGV[at])
  redis.call('HSET', KEYS[i], unpack(ARGV, at + 1, at + n))
  at = at + n + 1
end
return 1
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class LeaseLostError(RecsysError):
    """Another worker writes the features of this namespace now, or we paused too long."""


class LeasedWriter:
    """Writes hashes while it holds the lease of a namespace (``HashWriter``)."""

    def __init__(
        self, client: redis.Redis, namespace: str, *, lease_ms: int = LEASE_MS
    ) -> None:  # fmt: skip
        self._client = client
        self._key = lease_key(namespace)
        self._lease_ms = lease_ms
        self._token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}".encode()
        self._write: Any = client.register_script(_WRITE)
        self._renew: Any = client.register_script(_RENEW)
        self._release: Any = client.register_script(_RELEASE)
        self._renewed_s = 0.0

    def acquire(self, *, stop: Callable[[], bool], poll_s: float = 0.1) -> bool:
        """Wait until the lease is ours; False when ``stop`` said so first."""
        while not stop():
            if self._client.set(self._key, self._token, nx=True, px=self._lease_ms):
                self._renewed_s = time.monotonic()
                return True
            time.sleep(poll_s)
        return False

    def holder(self) -> str | None:
        """Give who holds the lease: ``host:pid:…``."""
        value = self._client.get(self._key)
        return value.decode() if isinstance(value, bytes) else None

    def renew_if_due(self) -> None:
        """Keep the lease through idle times. Raises LeaseLostError when it is gone."""
        if time.monotonic() - self._renewed_s < self._lease_ms / 3000:
            return
        if not self._renew(keys=[self._key], args=[self._token, self._lease_ms]):
            raise self._lost()
        self._renewed_s = time.monotonic()

    def write(self, writes: Sequence[Write]) -> None:
        """Set the fields of each hash; a hash gets all of them or none, hashes in order.

        Raises:
            LeaseLostError: when the lease is gone; nothing after that point was written.
        """
        for start in range(0, len(writes), _CHUNK):
            keys: list[bytes | str] = [self._key]
            args: list[bytes | int] = [self._token, self._lease_ms]
            for key, fields in writes[start : start + _CHUNK]:
                keys.append(key)
                args.append(2 * len(fields))
                for name, value in fields.items():
                    args.append(name)
                    args.append(value)
            if not self._write(keys=keys, args=args):
                raise self._lost()
        self._renewed_s = time.monotonic()

    def release(self) -> None:
        """Let a standby take over at once."""
        self._release(keys=[self._key], args=[self._token])

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"wanted to hold the lease {self._key}, found it with {self.holder() or 'nobody'}; "
            "this worker forgets its state and waits as a standby"
        )


def lease_key(namespace: str) -> str:
    """Give the Redis key of the lease."""
    return f"{namespace}:features:lease"


def positions_key(namespace: str) -> bytes:
    """Give the Redis key of how far the stream has got: ``topic/partition`` to next offset."""
    return f"{namespace}:features:positions".encode()
