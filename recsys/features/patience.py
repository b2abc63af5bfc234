"""Waiting for the online store: full, read-only, loading, restarting, slow, or cut off.

None of these loses an event: the log keeps what is not applied yet, so whoever writes features
waits and tries again, and does nothing else meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from recsys.errors import ServerError
from recsys.features.hashes import Found, HashReader, Wanted
from recsys.features.redis.replies import ErrorReply

logger = logging.getLogger(__name__)
T = TypeVar("T")

_PASSING = (
    "OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN",
    "MOVED", "ASK", "BUSY", "UNBLOCKED",
)  # fmt: skip
"""Codes of refusals that end when an operator, a fail-over or time has done its work."""
_PASSING_TYPES = (
    OSError,
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
)


def is_passing(error: Exception) -> bool:
    """Say whether the same command may succeed later."""
    if isinstance(error, _PASSING_TYPES):
        return True
    return isinstance(error, redis.ResponseError | ErrorReply) and str(error).startswith(_PASSING)


def give_up(_error: Exception) -> None:
    """Wait for nothing: the ``pause`` of a process that has someone to tell."""
    raise ServerError("not waited for") from _error


class Patience:
    """Pauses between tries, growing to a second; says so every ten."""

    def __init__(
        self,
        *,
        stop: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
        longest_s: float = 1.0,
        say_every_s: float = 10.0,
    ) -> None:
        """Take what to ask before each pause, and what to do in it (show a broker we live)."""
        self._stop = stop
        self.meanwhile = meanwhile
        self._longest_s = longest_s
        self._say_every_s = say_every_s
        self._said_s = -say_every_s
        self._pause_s = 0.0

    def __call__(self, error: Exception) -> None:
        """Pause.

        Raises:
            ServerError: when asked to stop.
        """
        if self._stop():
            raise ServerError(f"asked to stop while waiting for the online store: {error}")
        now_s = time.monotonic()
        if now_s - self._said_s >= self._say_every_s:
            self._said_s = now_s
            logger.warning(
                "waiting for the online store",
                extra={"reason": f"{type(error).__name__}: {error}"},
            )
        self._pause_s = min(self._longest_s, max(0.05, 2 * self._pause_s))
        time.sleep(self._pause_s)
        self.meanwhile()

    def forget_meanwhile(self) -> None:
        """Do nothing in the pauses any more."""
        self.meanwhile = lambda: None

    def relieved(self) -> None:
        """Begin with short pauses again."""
        self._pause_s = 0.0


class PatientHashes:
    """Reads hashes, waiting for as long as the store does not answer."""

    def __init__(self, reader: HashReader, patience: Patience) -> None:
        self._reader = reader
        self._patience = patience

    def read(self, wanted: Wanted) -> Found:
        """Give the fields; see ``HashReader``."""
        while True:
            try:
                found = self._reader.read(wanted)
            except ServerError as error:
                self._patience(error)
            else:
                self._patience.relieved()
                return found
