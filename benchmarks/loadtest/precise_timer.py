"""A timer of an event loop that wakes it to the microsecond, where the system has one.

An event loop's own timers count milliseconds (libuv) or wait by them (epoll), which at a few
thousand requests a second is more than the time between two. Linux's ``timerfd`` is a file that
becomes readable when it is due; ``call_later`` elsewhere.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC if sys.platform == "linux" else 0


class _Spec(ctypes.Structure):
    """``struct itimerspec``: interval, then time left."""

    _fields_ = [
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
        ("left_s", ctypes.c_long), ("left_ns", ctypes.c_long),
    ]  # fmt: skip


class PreciseTimer:
    """Calls ``wake`` on the running event loop, once for each ``after``."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Needs a running event loop; ``close`` it."""
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._due)
        self._spec = _Spec(0, 0, 0, 0)
        self._closed = False

    def after(self, seconds: float) -> None:
        """Call in so many seconds; 0 or less: at once. Only one call is waited for."""
        if self._file < 0:
            self._loop.call_later(max(0.0, seconds), self._called)
            return
        left_ns = max(1, int(seconds * 1e9))  # none at all would disarm it
        self._spec.left_s, self._spec.left_ns = divmod(left_ns, 1_000_000_000)
        if self._libc.timerfd_settime(self._file, 0, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Wake nobody any more."""
        self._closed = True
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _due(self) -> None:
        os.read(self._file, 8)
        self._called()

    def _called(self) -> None:
        if not self._closed:
            self._wake()
