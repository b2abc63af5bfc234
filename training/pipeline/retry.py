"""What is worth trying again: trouble of the moment, not of the input.

A server that does not answer may answer in a minute. A recipe with a mistake, an empty log, a full
disk or a bug will be the same in a minute, and each try costs training time.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import redis

from recsys.errors import DeadlineExceededError, OverloadedError, RecsysError, ServerError
from recsys.features.lease import LeaseLostError

_PASSING = frozenset(
    {
        errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.EHOSTUNREACH,
        errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN,
    }
)  # fmt: skip
"""Of the operating system's errors, those of networks and shared disks that come and go."""


class TransientError(RecsysError):
    """Something failed that may well succeed when it is tried again."""


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """How often and after how long."""

    attempts: int = 4
    """In all."""
    first_pause_s: float = 2.0
    """Doubles each time: 2, 4 and 8 seconds, so a server that is started anew is waited for."""
    longest_pause_s: float = 60.0

    def pause_s(self, attempt: int) -> float:
        """Give the pause after the ``attempt``-th try, the first being 1."""
        return float(min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s))


def is_transient(error: BaseException) -> bool:
    """Say whether trying again may help."""
    if isinstance(error, LeaseLostError):
        return False
    if isinstance(error, (TransientError, ServerError, DeadlineExceededError, OverloadedError)):
        return True
    if isinstance(
        error, (ConnectionError, TimeoutError, redis.ConnectionError, redis.TimeoutError)
    ):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING
