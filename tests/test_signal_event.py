"""An event that is set from a handler, at whatever step of waiting it comes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from recsys.signal_event import SignalEvent

# SIGALRM comes thousands of times while the main thread goes in and out of waiting, and its handler
# sets the event; with threading.Event this stands still within a second.
WAITING = """
import signal, time
from recsys.signal_event import SignalEvent
told = [SignalEvent()]
count = 0
def tell(*_):
    global count
    count += 1
    told[0].set()
signal.signal(signal.SIGALRM, tell)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
ends_s = time.monotonic() + 1.0
woken = 0
while time.monotonic() < ends_s:
    woken += told[0].wait(0.00005)
    told[0] = SignalEvent()
signal.setitimer(signal.ITIMER_REAL, 0)
print(count > 100 and woken > 10)
"""


def test_a_handler_may_set_it_at_any_step_of_a_wait() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "True"


def test_all_who_wait_are_woken_and_time_is_kept() -> None:
    event = SignalEvent()
    began_s = time.monotonic()
    assert not event.wait(0.05) and time.monotonic() - began_s >= 0.04
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(event.wait(20))) for _ in range(3)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(20)
    assert woken == [True] * 3 and event.is_set() and event.wait(0)
