"""One writer at a time: a lease in Redis whose token every write must show.

The token is checked by the very script that writes, so a worker that was stopped and wakes up
after another took over cannot write a single byte more. A standby waits in ``acquire``. A thread
keeps the lease while the worker is busy, with a large file for instance; it lives and is stopped
with the process, so a stopped worker loses the lease as it should. A lease whose holder ran on this
machine and is dead is taken at once: a crashed worker that is started again need not wait.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from recsys.errors import RecsysError
from recsys.features.hashes import Write

LEASE_MS = 4_000
"""How long a lease lives without a renewal: the pause before a standby (or the next start) takes
over from a killed worker. Renewed at a quarter of it."""
_CHUNK = 256
"""Entities written in one script: bounds how long Redis serves nobody else to a few ms."""

_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local at, refused = 3, {}
for i = 2, #KEYS do
  local version, n = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local stored = tonumber(redis.call('HGET', KEYS[i], '~w') or 0)
  if version ~= stored and version ~= -1 then
    refused[#refused + 1] = i - 1
  elseif n == 0 then
    redis.call('DEL', KEYS[i])
  else
    redis.call('HSET', KEYS[i], '~w', stored + 1, unpack(ARGV, at + 2, at + 1 + n))
  end
  at = at + n + 2
end
return refused
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
        self._token = f"{_machine()}:{os.getpid()}:{uuid.uuid4().hex}".encode()
        self._write: Any = client.register_script(_WRITE)
        self._renew: Any = client.register_script(_RENEW)
        self._release: Any = client.register_script(_RELEASE)
        self._lost_it = threading.Event()
        self._let_go = threading.Event()
        self._keeper: threading.Thread | None = None

    def acquire(self, *, stop: Callable[[], bool], poll_s: float = 0.1) -> bool:
        """Wait until the lease is ours; False when ``stop`` said so first."""
        while not stop():
            if self._client.set(self._key, self._token, nx=True, px=self._lease_ms):
                self._start_keeper()
                return True
            holder = self.holder()
            if holder is not None and _is_dead(holder):
                self._release(keys=[self._key], args=[holder.encode()])
                continue
            time.sleep(poll_s)
        return False

    def _start_keeper(self) -> None:
        self._lost_it.clear()
        self._let_go = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, args=(self._let_go,), name="lease", daemon=True
        )
        self._keeper.start()

    def _keep(self, let_go: threading.Event) -> None:
        while not let_go.wait(self._lease_ms / 4000):
            try:
                if not self._renew(keys=[self._key], args=[self._token, self._lease_ms]):
                    self._lost_it.set()
                    return
            except redis.RedisError:
                continue  # the writes will say so; the lease may yet be renewed in time

    def _stop_keeper(self) -> None:
        self._let_go.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None

    def holder(self) -> str | None:
        """Give who holds the lease: ``machine:pid:…``."""
        value = self._client.get(self._key)
        return value.decode() if isinstance(value, bytes) else None

    def take(self) -> None:
        """Take the lease from whoever holds it: its next write fails and it stands by."""
        self._client.set(self._key, self._token, px=self._lease_ms)
        self._start_keeper()

    def check(self) -> None:
        """Raise LeaseLostError when the lease was found to be gone."""
        if self._lost_it.is_set():
            raise self._lost()

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        """See ``HashWriter.write``.

        Raises:
            LeaseLostError: when the lease is gone; nothing after that point was written.
        """
        refused: list[bytes] = []
        for start in range(0, len(writes), _CHUNK):
            part = writes[start : start + _CHUNK]
            keys: list[bytes | str] = [self._key]
            args: list[bytes | int] = [self._token, self._lease_ms]
            for key, fields, version, remove in part:
                keys.append(key)
                args.append(version)
                args.append(0 if remove else 2 * len(fields))
                for name, value in () if remove else fields.items():
                    args.append(name)
                    args.append(value)
            found = self._write(keys=keys, args=args)
            if found == 0:
                raise self._lost()
            refused += [part[n - 1].key for n in found]
        return refused

    def release(self) -> None:
        """Let a standby take over at once."""
        self._stop_keeper()
        self._release(keys=[self._key], args=[self._token])

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"wanted to hold the lease {self._key}, found it with {self.holder() or 'nobody'}; "
            "this worker forgets its state and waits as a standby"
        )


def _machine() -> str:
    """Give what tells process numbers apart: this boot and this container's process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux: never equal, so nobody is held for dead
        return f"{socket.gethostname()}/{uuid.uuid4().hex}"


def _is_dead(holder: str) -> bool:
    machine, pid, *_ = holder.split(":")
    return machine == _machine() and not Path("/proc", pid).exists()


def lease_key(namespace: str) -> str:
    """Give the Redis key of the lease."""
    return f"{namespace}:features:lease"
