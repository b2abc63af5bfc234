"""A child process that the kernel ends when its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Have this process sent ``number`` when ``parent`` dies; ends it where that has happened.

    To be called in the child, right after the fork. The kernel's promise (``PR_SET_PDEATHSIG``) is
    about the *thread* of the parent that forked, and Linux alone makes it.
    """
    if sys.platform != "linux":
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the promise was made
        os._exit(128 + number)
