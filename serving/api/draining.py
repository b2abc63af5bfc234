"""Stopping without anybody noticing: not ready first, then no new connections, then the end.

::

    SIGTERM ──► /readyz is 503 ──► RECSYS_DRAIN_S later: no new connections, kept ones are closed
                                   after their answer ──► running requests end ──► exposures are
                                   written ──► the process ends

The pause is for whoever sends requests here to see that it should not. A second signal skips it.
"""

from __future__ import annotations

import asyncio
from types import FrameType

import uvicorn


class Draining:
    """Whether the process is about to stop."""

    def __init__(self, pause_s: float = 0.0) -> None:
        """``pause_s``: from being told to stop to taking no more connections."""
        self.pause_s = pause_s
        self.is_draining = False


class DrainingServer(uvicorn.Server):
    """A server that says it is not ready for a while before it stops."""

    def __init__(self, config: uvicorn.Config, draining: Draining) -> None:
        super().__init__(config)
        self._draining = draining
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().main_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal to stop; the first one begins the pause."""
        if self._draining.is_draining or self._draining.pause_s <= 0 or self._loop is None:
            self._draining.is_draining = True
            super().handle_exit(sig, frame)
            return
        self._draining.is_draining = True
        stop = super().handle_exit
        # From the loop itself: a signal may come between any two of its steps.
        self._loop.call_soon_threadsafe(
            self._loop.call_later, self._draining.pause_s, self._stop_unless_stopping, stop, sig
        )

    def _stop_unless_stopping(self, stop, sig: int) -> None:  # type: ignore[no-untyped-def]
        if not self.should_exit:
            stop(sig, None)
