"""Work that nobody waits for, done with what the machine has to spare.

Niceness alone does not do it. Where Linux groups processes by session
(``/proc/sys/kernel/sched_autogroup_enabled``, which most distributions turn on), it weighs a thread
by its niceness only against threads of the same session, and sessions against each other by the
niceness *of the session* (sched(7), "The autogroup feature"). Every server is started in a session
of its own, so a nice process beside it took as much of a core as it did: at 110 requests a second a
publication doubled the 99th percentile. A session's niceness can be lowered again without a
privilege, which a process's own cannot.

Where there is no such grouping (in a container with limits, on another system) the priority of the
threads does it, which is set as well.

The lowest priority gets nothing at all on a machine that is busy for good, so it is given only
where it can be taken back: by this process if it has the privilege, and after a while by another
(``recsys/spare_time_limit.py``), since a thread that gets no core may hold the interpreter's lock
and nothing here would run. A session's niceness wants no privilege.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from recsys.die_with_parent import die_with_parent

logger = logging.getLogger(__name__)

NICENESS = 19
FOR_GOOD = 5
"""Niceness of what cannot be taken back: a quarter of a core beside one that wants it, a third of
what is usual."""
SPARE_S = 45.0
"""So long work is done with what is spare alone: twice what loading a million items takes beside
requests, and less than half of what a publication waits (``inference/triton.py``)."""
_RETRY_S = 0.12
"""The kernel takes one change in a tenth of a second from all who have no privilege."""
_PATIENCE_S = 10.0


def leave_session() -> bool:
    """Begin a session of our own, the only process in it; tells whether we are in one."""
    try:
        os.setsid()
    except PermissionError:  # a leader of a group of processes stays where it is
        return os.getsid(0) == os.getpid()
    return True


def can_be_taken_back() -> bool:
    """Say whether a thread of this process can have its usual priority again.

    That wants a privilege (``CAP_SYS_NICE``, or ``RLIMIT_NICE`` of 20 or more), which containers
    usually lack. Tried by a thread that ends.
    """
    could: list[bool] = []

    def attempt() -> None:
        thread = threading.get_native_id()
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        _weigh_nothing(thread)
        could.append(weigh_as_usual(thread, usual))

    thread = threading.Thread(target=attempt, name="priority")
    thread.start()
    thread.join()
    return could[0]


def weigh_least(thread: int) -> None:
    """Give a thread (its native id; 0: this one) the lowest priority that does not starve it.

    Where it can be taken back that is the lowest there is: others that wake take its core at once,
    without waiting for the end of its turn (SCHED_IDLE). Where it cannot, ``FOR_GOOD``.
    """
    if can_be_taken_back():
        _weigh_nothing(thread)
    elif os.getpriority(os.PRIO_PROCESS, thread) < FOR_GOOD:
        os.setpriority(os.PRIO_PROCESS, thread, FOR_GOOD)


def _weigh_nothing(thread: int) -> None:
    os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
    if hasattr(os, "SCHED_IDLE"):  # on Linux
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def weigh_as_usual(thread: int, niceness: int = 0) -> bool:
    """Take back ``weigh_least`` of a thread (its native id; 0: this one); tells whether it could.

    See ``can_be_taken_back``.
    """
    try:
        if hasattr(os, "SCHED_IDLE"):  # on Linux
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    except (PermissionError, ProcessLookupError):  # or it has just ended
        return False
    return True


def weigh_session(niceness: int, process: int | None = None) -> bool:
    """Set the niceness of the session that we are in; tells whether the system knows such a thing.

    Only for a session of our own: it counts for every process of it. Waits for its turn, which
    takes some tenths of a second where many ask at once. ``process``: one of another session, of
    the same user, which is set instead.
    """
    session = Path(f"/proc/{process or 'self'}/autogroup")
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            # Every write of the file is a change: no buffer that would be written twice.
            session.write_text(str(niceness))
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                logger.error("the niceness of the session cannot be set to %d", niceness)
                return False
            time.sleep(_RETRY_S)
        except ProcessLookupError:  # it has ended
            return False
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
                logger.warning("the niceness of the session cannot be set: %s", error)
            return False
        else:
            return True


def take_back(process: int, niceness: int, *, session: bool) -> None:
    """Have all threads of a process weigh as usual, and the session that is its own.

    Those that begin meanwhile have the priority of the thread that began them: looked for until
    there are none.
    """
    if session:
        weigh_session(0, process)
    done: set[int] = set()
    while True:
        try:
            new = {int(task.name) for task in Path(f"/proc/{process}/task").iterdir()} - done
        except FileNotFoundError:  # it has ended, or the system has no such thing
            return
        if not new:
            return
        for thread in new:
            weigh_as_usual(thread, niceness)
        done |= new


def continue_in_spare_time() -> None:
    """Go on in a child process of the lowest priority, in a session of its own.

    This process waits, passes SIGINT, SIGTERM and SIGHUP on, and exits as the child does; the child
    gets SIGTERM when this process is killed. What is not done after ``SPARE_S`` goes on as usual.
    To be called before there are threads.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        sys.exit(_await(child))
    leave_session()
    die_with_parent(parent, signal.SIGTERM)
    weigh_least(0)
    weigh_session(NICENESS)


def _await(child: int) -> int:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    def hurry(_number: int, _frame: FrameType | None) -> None:
        take_back(child, os.getpriority(os.PRIO_PROCESS, 0), session=True)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGALRM, hurry)
    signal.setitimer(signal.ITIMER_REAL, SPARE_S)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
