"""Processes that end: children that are killed many times over, and those of others.

Each child is forked from one process that has done the imports and nothing else, so that it costs
hundredths of a second and begins with one thread.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess

import psutil

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


def wait_for_end(process: psutil.Process, timeout_s: float = 60.0) -> None:
    """Wait until a process that need not be our child has ended."""
    ends_s = time.monotonic() + timeout_s
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < ends_s, f"{process} still ran after {timeout_s:g} s"
            time.sleep(0.02)
