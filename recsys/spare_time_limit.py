"""Ends a process's time at the lowest priority, from a process beside it.

What is loading cannot do so itself: a thread that gets no core may hold the interpreter's lock (it
does for a second of ``import torch``), and then no timer of its process runs. On a machine busy
for good that second took longer than a publication waits.
"""

from __future__ import annotations

import logging
import os
import select

from recsys.spare_time import take_back

logger = logging.getLogger(__name__)


class SpareTimeLimit:
    """From its making on this process may be the least for so many seconds, or until ``end``.

    To be made before the priority is lowered and before there are threads that compute: a fork
    waits beside, in a session of its own, and touches nothing but priorities.
    """

    def __init__(self, limit_s: float, *, session: bool) -> None:
        """Begin; ``session`` says that this process is alone in its session, which is set too."""
        ours, niceness = os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)
        read, self._write = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(self._write)  # else it would never read the end of the other process
                os.setsid()
                _wait(read, limit_s, ours, niceness, session=session)
            finally:
                os._exit(0)
        os.close(read)

    def end(self) -> None:
        """Take no more care of it."""
        os.close(self._write)
        os.waitpid(self._child, 0)


def _wait(read: int, limit_s: float, process: int, niceness: int, *, session: bool) -> None:
    ended, _, _ = select.select([read], [], [], limit_s)  # the end of the file, at its death too
    if not ended:
        logger.warning("not done with what is spare within %g s: going on as usual", limit_s)
        take_back(process, niceness, session=session)
