"""Child processes that are killed many times over.

Each is forked from one process that has done the imports and nothing else, so that a child costs
hundredths of a second and begins with one thread.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerProcess

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.events.sink_worker", "tests.events.upkeep_worker"])


def ended(child: ForkServerProcess, timeout_s: float = 60.0) -> int:
    """Wait for the child's end and give its exit code; -9 of one that was killed."""
    child.join(timeout_s)
    code = child.exitcode
    if code is None:
        child.kill()
        raise AssertionError(f"the child still ran after {timeout_s:g} s")
    child.close()
    return code
