"""Ends a process's time at the lowest priority, from a process beside it.

What is loading cannot do so itself: a thread that gets no core may hold the interpreter's lock
while it imports or computes, and then no timer of its process runs. On a machine busy for good that
takes longer than a publication waits.
"""

from __future__ import annotations

import logging
import os
import select
from types import TracebackType
from typing import Self

from recsys.spare_time import NICENESS, take_back, weigh_session

logger = logging.getLogger(__name__)


class SpareTimeLimit:
    """Around work of this process that weighs least, for so many seconds at most.

    To be entered before a thread's priority is lowered and before there are threads that compute: a
    fork waits beside, in a session of its own, and touches nothing but priorities.
    """

    def __init__(self, limit_s: float, *, session: bool) -> None:
        """``session``: this process is alone in its session, which weighs least as well."""
        self._limit_s, self._session = limit_s, session

    def __enter__(self) -> Self:
        """Begin."""
        ours, niceness = os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)
        read, self._write = os.pipe()
        self._beside = os.fork()
        if self._beside == 0:
            try:
                os.close(self._write)  # else it would never read the end of the other process
                os.setsid()
                if not _ended_within(self._limit_s, read):
                    take_back(ours, niceness, session=self._session)
            except BaseException:
                logger.exception("the usual priority could not be taken back")
            finally:
                os._exit(0)  # nothing of this process is the fork's to end
        os.close(read)
        if self._session:
            weigh_session(NICENESS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End it; the session weighs as usual again."""
        os.close(self._write)
        os.waitpid(self._beside, 0)
        if self._session:
            weigh_session(0)


def _ended_within(limit_s: float, read: int) -> bool:
    """Wait for the end of the file, which comes at the other's death too."""
    ended, _, _ = select.select([read], [], [], limit_s)
    if not ended:
        logger.warning("not done with what is spare within %g s: going on as usual", limit_s)
    return bool(ended)
