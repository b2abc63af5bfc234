"""What is at the lowest priority has its usual one again after a while, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from recsys.spare_time import can_be_taken_back
from tests.children import wait_for_end

LEAST = """
import ctypes, os, subprocess, sys, threading, time
from recsys.spare_time import *
from recsys.spare_time_limit import SpareTimeLimit

def told():
    session = open("/proc/self/autogroup").read().split()[-1] if AUTOGROUP else "0"
    thread = threading.get_native_id()
    return os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread), int(session)

AUTOGROUP = os.path.exists("/proc/self/autogroup")
limit = SpareTimeLimit(float(sys.argv[1]), session=leave_session()).__enter__()
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
limit.__exit__(None, None, None)
print(*told())
"""
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities")


@needs_linux
@pytest.mark.parametrize(("limit_s", "ends"), [("0.3", True), ("60", False)])
def test_it_ends_while_the_interpreter_is_held(limit_s: str, ends: bool) -> None:
    command = [sys.executable, "-c", HOLDS_THE_LOCK, limit_s]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    before, after, left = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    session = 19 if Path("/proc/self/autogroup").exists() else 0
    assert before == ((19, 5, session) if can_be_taken_back() else (5, 0, session))
    if not ends:
        assert after == before
    elif can_be_taken_back():
        assert after == (0, 0, 0)
    else:
        assert after == (5, 0, 0)  # the session's can be, without a privilege
    assert left == (0, 0, 0)
    assert ("going on as usual" in done.stderr) == ends


@needs_linux
def test_what_cannot_be_taken_back_is_said() -> None:
    code = (
        "import os, recsys.spare_time_limit as s, time\n"
        "def take_back(*a, **k): raise OSError('no such thing')\n"
        "s.take_back = take_back\n"
        "with s.SpareTimeLimit(0.1, session=False): time.sleep(0.5)\n"
        "print('done')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "done\n", "once, by us"
    assert "no such thing" in done.stderr


@needs_linux
def test_what_waits_beside_ends_with_it() -> None:
    code = LEAST + "print(limit._beside, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        beside = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait(timeout=30)
        wait_for_end(beside)
