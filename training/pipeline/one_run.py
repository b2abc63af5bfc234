"""One run at a time, and none that undoes a later one.

The lease says who runs: in Redis for all machines that share it, or as a file lock where there is
no Redis and one machine. A process that dies lets go at once on its own machine, after ``LEASE_MS``
elsewhere.

A lease cannot stop a process that slept while it lost it and wakes up in the middle of publishing.
So each run also has a number, the fence, higher than that of every run before it, and the bundle
store refuses to make a bundle live for a lower number than the highest it has seen
(``BundleStore.activate``).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from recsys.clock import now_ms
from recsys.endpoints import resolve
from recsys.errors import RecsysError, ServerError
from recsys.events.durable_files import make_directory, write_durably
from recsys.features.lease import Lease, is_dead
from recsys.features.redis_hashes import connect
from recsys.settings import Settings

LEASE_MS = 30_000
"""How long a run on another machine that was killed is waited for."""
_LOCK_FILE = "lease.lock"
_LOOKS = 5
_NEXT_FENCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local fence = math.max(now, last + 1)
redis.call('SET', KEYS[1], string.format('%.0f', fence))
return fence
"""
"""Of the server's clock, so that a Redis that was emptied goes on upwards."""


class BusyError(RecsysError):
    """Another run is at work."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The right to run."""

    fence: int
    check: Callable[[], None]
    """Raises LeaseLostError when the right is gone."""


@contextmanager
def turn_in_redis(client: redis.Redis, namespace: str, *, note: str) -> Iterator[Turn]:
    """Hold the lease in Redis.

    Args:
        client: Whose Redis all machines share.
        namespace: ``Settings.namespace``.
        note: Who runs, for the message another one gets: a host, a process number, a run.

    Raises:
        BusyError: when another run holds it; names the holder.
        ServerError: when Redis does not answer.
    """
    key = _key(namespace)
    lease = Lease(client, key, lease_ms=LEASE_MS)
    try:
        if not lease.try_acquire():
            raise _busy(lease.holder(), client.get(f"{key}:note"))
        fence = int(client.register_script(_NEXT_FENCE)(keys=[f"{namespace}:pipeline:fence"]))
        client.set(f"{key}:note", note)
    except redis.RedisError as error:
        raise ServerError(
            f"wanted the lease {key} in Redis, found: {error}; check REDIS_URL or run `recsys up`, "
            "or give `--lease file` where only this machine runs the pipeline"
        ) from error
    try:
        yield Turn(fence=fence, check=lease.check)
    finally:
        with suppress(redis.RedisError):  # it ends by itself
            lease.release()


@contextmanager
def turn_by_file(folder: Path, *, note: str) -> Iterator[Turn]:
    """Hold a lock on a file in ``folder``, which only processes of this machine see.

    Raises:
        BusyError: when another run holds it; names the holder.
    """
    make_directory(folder)
    path = folder / _LOCK_FILE
    with path.open("a+") as file:
        for look in range(_LOOKS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if look + 1 == _LOOKS:
                    file.seek(0)
                    raise _busy(None, file.read().strip() or None) from None
                time.sleep(0.05)  # `recsys pipeline status` holds it for an instant
        file.truncate(0)
        file.write(note)
        file.flush()
        yield Turn(fence=_next_fence(folder / "fence.json"), check=lambda: None)


def holder_in_redis(settings: Settings) -> str | None:
    """Give who runs by the lease in Redis; None when nobody alive does, or no Redis answers."""
    url = resolve(settings).redis_url
    if url is None:
        return None
    key = _key(settings.namespace)
    try:
        client = connect(url)
        holder = Lease(client, key).holder()
        if holder is None or is_dead(holder):
            return None
        note = client.get(f"{key}:note")
    except redis.RedisError:
        return None
    return note.decode() if isinstance(note, bytes) else "somebody"


def holder_in_file(folder: Path) -> str | None:
    """Give who runs by the file lock; None when nobody does."""
    path = folder / _LOCK_FILE
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "somebody"
    return None


def note_of(run: str) -> str:
    """Say who runs ``run``."""
    return f"run {run}, process {os.getpid()} on {socket.gethostname()}"


def _key(namespace: str) -> str:
    return f"{namespace}:pipeline:lease"


def _next_fence(path: Path) -> int:
    try:
        last = int(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        last = 0
    fence = max(now_ms(), last + 1)
    write_durably(path, json.dumps(fence).encode())
    return fence


def _busy(holder: str | None, note: Any) -> BusyError:
    said = note.decode() if isinstance(note, bytes) else note
    return BusyError(
        f"wanted to run the pipeline, found it running already: {said or holder or 'by someone'}; "
        "wait for it, or stop it and run this again (it goes on where that one was)"
    )
