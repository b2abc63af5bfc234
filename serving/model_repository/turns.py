"""Turns at the interpreter: requests first, background work in short turns between them.

A computation gives up Python's global lock hundreds of times, and while another thread computes in
Python, waits up to 5 ms to get it back each time. So background work that is not waiting for
something must not run beside a request at all. It takes short turns, and a request waits for one
of them at most; requests that come without a pause leave room for one turn after each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One of two parties works at a time, and neither can keep the other out."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        """Held by whoever is next; the other queues behind it."""
        self._work = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work while nobody else does."""
        with self._next:
            self._work.acquire()
        try:
            yield
        finally:
            self._work.release()
