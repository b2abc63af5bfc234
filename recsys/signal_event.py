"""An event that the handler of a signal may set.

``threading.Event`` is not one: a handler runs in the main thread between two of its steps, and
where it interrupts ``wait`` at the wrong one, the lock that ``set`` wants is held by that very
thread, which then waits for itself for ever. ``queue.SimpleQueue`` is made to be put to from there
(its documentation: "put() … is reentrant").
"""

from __future__ import annotations

import queue


class SignalEvent:
    """As ``threading.Event``, without ``clear``."""

    def __init__(self) -> None:
        self._is_set = False
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Say whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake who waits; from a handler as well."""
        self._is_set = True
        self._told.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; says whether it is."""
        if not self._is_set:
            try:
                self._told.get(timeout=timeout)
            except queue.Empty:
                return self._is_set
            self._told.put(None)  # for the next who waits
        return True
