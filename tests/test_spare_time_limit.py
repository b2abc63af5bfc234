"""What is at the lowest priority has its usual one again after a while, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.spare_time import can_be_taken_back
from recsys.spare_time_limit import SESSION_NICENESS, longest_waits
from tests.children import wait_for_end

LEAST = """
import ctypes, os, signal, sys, threading, time
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
    print(limit._beside, threading.get_native_id(), *told(), flush=True)
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)  # no other thread runs Python
    print(*told())

os.kill(limit._beside, signal.SIGSTOP)  # until told: however slow this machine is
thread = threading.Thread(target=load)
thread.start()
thread.join()
limit.__exit__(None, None, None)
print(*told())
"""
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities")


@needs_linux
@pytest.mark.parametrize(("limit_s", "ends"), [("2", True), ("60", False)])
def test_it_ends_while_the_interpreter_is_held(limit_s: str, ends: bool) -> None:
    command = [sys.executable, "-c", HOLDS_THE_LOCK, limit_s]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    session = SESSION_NICENESS if Path("/proc/self/autogroup").exists() else 0
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        beside, thread, *before = map(int, process.stdout.readline().split())
        assert before == ([19, 5, session] if can_be_taken_back() else [5, 0, session])
        os.kill(beside, signal.SIGCONT)
        if not ends:
            usual = before
            time.sleep(1.0)
        elif can_be_taken_back():
            usual = [0, 0, 0]
        else:
            usual = [5, 0, 0]  # the session's can be, without a privilege
        ends_s = time.monotonic() + 30.0
        while _weights(process.pid, thread) != usual and time.monotonic() < ends_s:
            time.sleep(0.02)
        said, warned = process.communicate("\n", timeout=60)
    after, left = (list(map(int, line.split())) for line in said.splitlines())
    assert after == usual
    assert left == [0, 0, 0]
    assert ("going on as usual" in warned) == ends


def _weights(process: int, thread: int) -> list[int]:
    group = Path(f"/proc/{process}/autogroup")
    session = int(group.read_text().split()[-1]) if group.exists() else 0
    return [os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread), session]


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


STARVED = """
import os, subprocess, sys, threading, time, zlib
from recsys.spare_time_limit import SpareTimeLimit

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
ended, policies = threading.Event(), []

def compute():
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    begun.set()
    while not ended.is_set():
        zlib.compress(bytes(1 << 20))

begun = threading.Event()
thread = threading.Thread(target=compute)
thread.start()
begun.wait()
try:
    with SpareTimeLimit(60, session=False, starved_s=0.2) as limit:
        ends_s = time.monotonic() + 20
        while os.sched_getscheduler(thread.native_id) and time.monotonic() < ends_s:
            time.sleep(0.05)
        print(os.sched_getscheduler(thread.native_id))
finally:
    busy.kill()
    ended.set()
print(limit.starved)
"""


@needs_linux
@pytest.mark.skipif(not can_be_taken_back(), reason="without the privilege it would be for good")
def test_it_ends_where_others_of_the_process_wait_for_a_core() -> None:
    command = [sys.executable, "-c", STARVED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "True"]
    assert "a thread got no core" in done.stderr


LESS_NICE = """
import os, time
from recsys import spare_time_limit
from recsys.spare_time import leave_session

def session():
    return open(f"/proc/{process}/autogroup").read().split()[-1]

def waits(threads, read):
    while session() != "19":
        time.sleep(0.02)
    for waited_s in (0.0, 0.3, 0.1, 0.3):
        yield waited_s
        os.write(1, session().encode() + b" ")

process = os.getpid()
spare_time_limit.longest_waits = waits
with spare_time_limit.SpareTimeLimit(60, session=leave_session()):
    pass
"""


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel does not weigh sessions"
)
def test_a_session_weighs_more_step_by_step() -> None:
    command = [sys.executable, "-c", LESS_NICE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["19", "10", "10", "0"]
    assert done.stderr.count("a thread got no core for 0.30 s: going on less nice") == 2


@needs_linux
@pytest.mark.parametrize("state", ["R", "T", "S"])
def test_only_what_wants_a_core_waits_for_one(tmp_path: Path, state: str) -> None:
    thread = tmp_path / "7"
    thread.mkdir()
    stat, schedstat = thread / "stat", thread / "schedstat"
    stat.write_text(f"7 (a ) name) {state} 1 2")
    schedstat.write_text("100 5 1")
    read, write = os.pipe()
    waits = longest_waits([thread, tmp_path / "ended"], read)
    assert next(waits) == 0.0
    assert (next(waits) > 0.0) == (state != "S")
    schedstat.write_text("200 5 1")
    assert next(waits) == 0.0
    assert (next(waits) > 0.0) == (state != "S")
    os.close(write)
    assert list(waits) == []
    os.close(read)


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
