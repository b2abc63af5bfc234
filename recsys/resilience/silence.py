"""Looking, while a call is under way, whether the server behind it has fallen silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from recsys.resilience.breaker import CircuitBreaker

_LATE_S = 0.01
"""An event loop that is later than this reads what has come before it judges."""
AGAIN_S = 0.02
"""Between two looks at a call that waits while others are answered."""


class SilenceTimer:
    """Runs for one call of an event loop, until it is stopped.

    A timer that is due runs before the sockets are read. So a loop that itself stood still, for a
    stopped process or a thread that held the interpreter, would find all its calls unanswered: it
    looks again after as long as it was late.
    """

    def __init__(self, breaker: CircuitBreaker, release: Callable[[], None]) -> None:
        """Begin; ``release`` is called when nobody should wait any more, once at most."""
        self._breaker = breaker
        self._release = release
        self._began_s = time.perf_counter()
        silence_s = breaker.silence_s
        assert silence_s is not None, "nothing is known of the server"
        self._wait(silence_s)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._due_s = time.perf_counter() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        now_s = time.perf_counter()
        late_s = now_s - self._due_s
        if late_s > _LATE_S:
            self._wait(late_s)
        elif self._breaker.is_silent(waited_s=now_s - self._began_s):
            self._release()
        else:  # others are answered, or the timer was early: its clock is the loop's, to the ms
            self._wait(AGAIN_S)
