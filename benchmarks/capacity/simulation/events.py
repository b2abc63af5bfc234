"""The clock of a simulation: what is to happen, in order of time.

One heap of (time, number, what to call, with what). The number makes events of the same moment
happen in the order in which they were made, so a run depends on its seed and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Do = Callable[[Any], None]
"""What happens; it is given what was handed over with it."""
_LOOK_EVERY = 1 << 16


class Events:
    """A clock that jumps from one event to the next."""

    def __init__(self) -> None:
        self.now_s = 0.0
        """Seconds since the simulation began."""
        self.handled = 0
        """Events that have happened."""
        self._heap: list[tuple[float, int, Do, Any]] = []
        self._number = 0

    def at(self, time_s: float, do: Do, what: Any = None) -> None:
        """Call ``do(what)`` at a moment; one that has passed is now."""
        self._number = number = self._number + 1
        heappush(self._heap, (time_s, number, do, what))

    def after(self, delay_s: float, do: Do, what: Any = None) -> None:
        """Call ``do(what)`` in ``delay_s`` seconds."""
        self._number = number = self._number + 1
        heappush(self._heap, (self.now_s + delay_s, number, do, what))

    def run(self, until_s: float, look: Callable[[float], None] | None = None) -> None:
        """Let happen what is due until ``until_s``, which is what the clock then shows.

        ``look`` is called with the time every 65,536 events: to say how far it is, or to stop by
        raising. All that happened before stays as it is.
        """
        heap, handled = self._heap, 0
        try:
            while heap and heap[0][0] <= until_s:
                time_s, _, do, what = heappop(heap)
                if time_s > self.now_s:
                    self.now_s = time_s
                do(what)
                handled += 1
                if look is not None and not handled % _LOOK_EVERY:
                    look(self.now_s)
        finally:
            self.handled += handled
        self.now_s = max(self.now_s, until_s)
