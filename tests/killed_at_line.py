"""Runs something in a child process and kills it (SIGKILL) as the N-th line of some modules begins.

To be used from a process with one thread: the child is a fork.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def killed_at_line(work: Callable[[], None], files: Collection[str], number: int) -> bool:
    """Do ``work`` in a child that dies at its ``number``-th line of ``files``; say whether it did.

    False: the work was done before it came to that line.
    """
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        except BaseException as error:  # noqa: BLE001  told by the exit code, by no test runner
            sys.settrace(None)
            sys.stderr.write(f"child failed: {error!r}\n")
            os._exit(1)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed in the child"
    return False
