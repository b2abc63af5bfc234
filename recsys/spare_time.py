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
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from recsys.die_with_parent import die_with_parent

logger = logging.getLogger(__name__)

NICENESS = 19
_SESSION = Path("/proc/self/autogroup")
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


def weigh_least(thread: int) -> None:
    """Give a thread (its native id; 0: this one) the lowest priority there is.

    For good, unless it has the privilege of ``weigh_as_usual``.

    Others that wake take its core at once, without waiting for the end of its turn (SCHED_IDLE).
    """
    os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
    if hasattr(os, "SCHED_IDLE"):  # on Linux
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def weigh_as_usual(thread: int, niceness: int = 0) -> bool:
    """Take back ``weigh_least`` of a thread (its native id; 0: this one); tells whether it could.

    That wants a privilege (``CAP_SYS_NICE``, or ``RLIMIT_NICE`` of 20 or more).
    """
    try:
        if hasattr(os, "SCHED_IDLE"):  # on Linux
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    except (PermissionError, ProcessLookupError):  # or it has just ended
        return False
    return True


def weigh_session(niceness: int) -> bool:
    """Set the niceness of the session that we are in; tells whether the system knows such a thing.

    Only for a session of our own: it counts for every process of it. Waits for its turn, which
    takes some tenths of a second where many ask at once.
    """
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            # Every write of the file is a change: no buffer that would be written twice.
            _SESSION.write_text(str(niceness))
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                logger.error("the niceness of the session cannot be set to %d", niceness)
                return False
            time.sleep(_RETRY_S)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
                logger.warning("the niceness of the session cannot be set: %s", error)
            return False
        else:
            return True


def continue_in_spare_time() -> None:
    """Go on in a child process of the lowest priority, in a session of its own.

    This process waits, passes SIGINT, SIGTERM and SIGHUP on, and exits as the child does; the child
    gets SIGTERM when this process is killed. To be called before there are threads.
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

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
