"""One process at a time: a lease in Redis, for what cannot be shared.

Two things are done under one: the only worker of a broker whose groups cannot rebalance (Tansu),
and computing all features anew. A standby waits in ``acquire``. A thread keeps the lease while its
holder is busy; it lives and is stopped with the process, so a stopped holder loses the lease as it
should. A lease whose holder ran on this machine and is dead is taken at once: a crashed worker that
is started again need not wait.

The lease only keeps out of each other's way; that nothing is spoiled when two believe to hold it is
the business of the writes themselves (``guarded_writer.py``).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from recsys.errors import RecsysError

LEASE_MS = 4_000
"""How long a lease lives without a renewal: the pause before a standby (or the next start) takes
over from a killed worker. Renewed at a quarter of it."""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class LeaseLostError(RecsysError):
    """Another process holds the lease now: we paused for too long."""


class Lease:
    """The right to do one thing alone."""

    def __init__(
        self, client: redis.Redis, key: str, *, lease_ms: int = LEASE_MS
    ) -> None:  # fmt: skip
        self._client = client
        self._key = key
        self._lease_ms = lease_ms
        self._token = f"{_machine()}:{os.getpid()}:{uuid.uuid4().hex}".encode()
        self._renew: Any = client.register_script(_RENEW)
        self._release: Any = client.register_script(_RELEASE)
        self._lost_it = threading.Event()
        self._let_go = threading.Event()
        self._keeper: threading.Thread | None = None

    def acquire(self, *, stop: Callable[[], bool], poll_s: float = 0.1) -> bool:
        """Wait until the lease is ours; False when ``stop`` said so first."""
        while not stop():
            if self.try_acquire():
                return True
            time.sleep(poll_s)
        return False

    def try_acquire(self) -> bool:
        """Take the lease if nobody alive holds it."""
        holder = self.holder()
        if holder is not None and is_dead(holder):
            self._release(keys=[self._key], args=[holder.encode()])
        if not self._client.set(self._key, self._token, nx=True, px=self._lease_ms):
            return False
        self._start_keeper()
        return True

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

    def check(self) -> None:
        """Raise LeaseLostError when the lease was found to be gone."""
        if self._lost_it.is_set():
            raise self._lost()

    def release(self) -> None:
        """Let a standby take over at once."""
        self._stop_keeper()
        self._release(keys=[self._key], args=[self._token])

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"wanted to hold the lease {self._key}, found it with {self.holder() or 'nobody'}; "
            "this process stands by"
        )


def _machine() -> str:
    """Give what tells process numbers apart: this boot and this container's process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux: never equal, so nobody is held for dead
        return f"{socket.gethostname()}/{uuid.uuid4().hex}"


def is_dead(holder: str) -> bool:
    """Say whether the holder of a lease ran on this machine and runs no more."""
    machine, pid, *_ = holder.split(":")
    return machine == _machine() and not Path("/proc", pid).exists()


def worker_lease(namespace: str) -> str:
    """Give the key of the lease of a worker that must be the only one."""
    return f"{namespace}:features:lease"


def rebuild_lease(namespace: str) -> str:
    """Give the key of the lease of whoever computes all features anew."""
    return f"{namespace}:features:rebuild"
