"""Work in spare time: the lowest priority, and interrupted, killed and ended as if it were here."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from recsys.spare_time import FOR_GOOD, can_be_taken_back
from tests.children import wait_for_end

AUTOGROUP = Path("/proc/self/autogroup")
BEGIN = "from recsys.spare_time import *; import os, sys, time; continue_in_spare_time(); "
# What a shell starts in the background ignores SIGINT, and all it starts.
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
WAIT = HEAR + BEGIN + "print(os.getpid(), flush=True); time.sleep(60)"

needs_autogroup = pytest.mark.skipif(
    not AUTOGROUP.exists(), reason="this kernel does not weigh sessions"
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )


@contextmanager
def waiting() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Give one that waits, and its child."""
    with subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        yield one, psutil.Process(int(one.stdout.readline()))


def test_it_goes_on_at_the_lowest_priority_in_a_session_of_its_own() -> None:
    done = run(BEGIN + "print(os.nice(0), os.getsid(0) == os.getpid())")
    least = 19 if can_be_taken_back() else FOR_GOOD
    assert (done.returncode, done.stdout) == (0, f"{least} True\n")


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_what_does_not_end_goes_on_as_usual() -> None:
    code = (
        "import recsys.spare_time as s; s.SPARE_S = 0.3; "
        + BEGIN
        + "time.sleep(2.5); print(os.nice(0), os.sched_getscheduler(0))"
    )
    assert run(code).stdout == ("0 0\n" if can_be_taken_back() else f"{FOR_GOOD} 0\n")


WITHOUT = """
import os, resource
from recsys.spare_time import FOR_GOOD, can_be_taken_back, weigh_least
os.geteuid() or os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
assert not can_be_taken_back()
weigh_least(0)
assert (os.nice(0), os.sched_getscheduler(0)) == (FOR_GOOD, os.SCHED_OTHER)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_what_cannot_be_taken_back_is_not_starved() -> None:
    assert run(WITHOUT).returncode == 0


@needs_autogroup
def test_the_session_has_the_lowest_priority_too_and_ours_has_not() -> None:
    before = AUTOGROUP.read_text()
    done = run(BEGIN + "print(open('/proc/self/autogroup').read())")
    assert done.stdout.split()[1:] == ["nice", "19"]
    assert AUTOGROUP.read_text() == before


@needs_autogroup
def test_a_session_becomes_usual_again_without_a_privilege() -> None:
    code = (
        "import ctypes, os; from recsys.spare_time import *; assert leave_session(); "
        "os.geteuid() or os.setuid(65534); "
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); "  # what changed its user does not own its files
        "assert weigh_session(19); assert weigh_session(0); "
        "print(open('/proc/self/autogroup').read())"
    )
    assert run(code).stdout.split()[1:] == ["nice", "0"]


def test_its_exit_code_is_ours() -> None:
    assert run(BEGIN + "sys.exit(3)").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    with waiting() as (process, child):
        assert child.pid != process.pid
        process.send_signal(number)
        code = process.wait(timeout=30)
        assert not child.is_running()
    assert code == 128 + number


def test_it_does_not_outlive_us() -> None:
    with waiting() as (process, child):
        process.kill()
        process.wait(timeout=30)
        wait_for_end(child)


def test_a_leader_of_processes_stays_in_its_session() -> None:
    code = (
        "import os; from recsys.spare_time import leave_session; os.setpgid(0, 0); "
        "print(leave_session(), os.getsid(0) == os.getpid())"
    )
    assert run(code).stdout == "False False\n"
