"""What is at the lowest priority has its usual one again after a while, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recsys.spare_time import can_be_taken_back

LEAST = """
import ctypes, os, subprocess, sys, threading, time
from recsys.spare_time import *
from recsys.spare_time_limit import SpareTimeLimit

def told():
    session = open("/proc/self/autogroup").read().split()[-1] if AUTOGROUP else "0"
    thread = threading.get_native_id()
    return os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread), int(session)

AUTOGROUP = os.path.exists("/proc/self/autogroup")
limit = SpareTimeLimit(float(sys.argv[1]), session=leave_session())
weigh_session(NICENESS)
"""
HOLDS_THE_LOCK = (
    LEAST
    + """
def load():
    weigh_least(threading.get_native_id())
    print(*told())
    ctypes.PyDLL(None).usleep(ctypes.c_uint(2_500_000))  # no other thread runs Python
    print(*told())

thread = threading.Thread(target=load)
thread.start()
thread.join()
limit.end()
"""
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities")


@needs_linux
@pytest.mark.parametrize(("limit_s", "ends"), [("0.3", True), ("60", False)])
def test_it_ends_while_the_interpreter_is_held(limit_s: str, ends: bool) -> None:
    command = [sys.executable, "-c", HOLDS_THE_LOCK, limit_s]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    before, after = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    session = 19 if Path("/proc/self/autogroup").exists() else 0
    assert before == ((19, 5, session) if can_be_taken_back() else (5, 0, session))
    if not ends:
        assert after == before
    elif can_be_taken_back():
        assert after == (0, 0, 0)
    else:
        assert after == (5, 0, 0)  # the session's can be, without a privilege
    assert ("going on as usual" in done.stderr) == ends


@needs_linux
def test_what_waits_beside_ends_with_it() -> None:
    code = LEAST + "print(limit._child, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        beside = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait(timeout=30)
        ends_s = time.monotonic() + 10
        while beside.is_running() and beside.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < ends_s
            time.sleep(0.02)
