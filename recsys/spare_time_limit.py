"""Ends a process's time at the lowest priority, from a process beside it.

What is loading cannot do so itself: a thread that gets no core may hold the interpreter's lock
while it imports or computes, and then no timer of its process runs. On a machine busy for good that
takes longer than a publication waits.

It is cut short where threads that do not load wait for a core as well, as all do whose session
weighs little. Somebody may wait for a sign of life from one of them, who is to know in the end
that there may have been none for a while.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys.spare_time import take_back, weigh_session

logger = logging.getLogger(__name__)

SESSION_NICENESS = 19
"""One part in seventy of a core beside a session that wants it. Turns, of some milliseconds each,
come every quarter of a second beside one session, every second beside four."""
_LESS_NICE = 10
"""A tenth, and turns every fortieth of a second: where a thread waited for its turn too long."""
_LOOK_S = 0.1
_WAITED_S = 0.25
"""So long a thread may wait for a core; usual on a busy machine are hundredths of a second."""


class SpareTimeLimit:
    """Around work of this process that weighs little, for so many seconds at most.

    To be entered before a thread's priority is lowered and before there are threads that compute: a
    fork waits beside, in a session of its own, and touches nothing but priorities.
    """

    def __init__(self, limit_s: float, *, session: bool, starved_s: float = 1.0) -> None:
        """``session``: this process is alone in its session, which weighs little as well.

        ``limit_s`` of 0: nothing weighs little. ``starved_s``: see ``starved``.
        """
        self._limit_s, self._session, self._starved_s = limit_s, session, starved_s
        self.starved = False
        """Whether a thread that was there before, not the first, got no core for ``starved_s``."""

    def __enter__(self) -> Self:
        """Begin."""
        process = os.getpid()
        read, self._write = os.pipe()
        threads = _threads(process)
        self._beside = os.fork()
        if self._beside == 0:
            starved = False
            try:
                os.close(self._write)  # else it would never read the end of the other process
                os.setsid()
                starved = self._watch(process, threads, read)
            except BaseException:
                logger.exception("whether there is spare time is no longer looked at")
            finally:
                os._exit(starved)  # nothing of this process is the fork's to end
        os.close(read)
        if self._session and self._limit_s:
            weigh_session(SESSION_NICENESS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End it; the session weighs as usual again."""
        os.close(self._write)
        _, status = os.waitpid(self._beside, 0)
        self.starved = os.waitstatus_to_exitcode(status) == 1
        if self._session and self._limit_s:
            weigh_session(0)

    def _watch(self, process: int, threads: list[Path], read: int) -> bool:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        begin_s = time.monotonic()
        longest_s = 0.0
        weights = [_LESS_NICE, 0] if self._session else [0]
        if not self._limit_s:
            weights = []
        for waited_s in longest_waits(threads, read):
            longest_s = max(longest_s, waited_s)
            is_late = time.monotonic() - begin_s > self._limit_s
            if not weights or not (is_late or waited_s > _WAITED_S):
                continue
            if is_late:
                weights = weights[-1:]
                logger.warning(
                    "not done with what is spare within %g s: going on as usual", self._limit_s
                )
            else:
                logger.warning("a thread got no core for %.2f s: going on less nice", waited_s)
            if weights.pop(0):
                weigh_session(_LESS_NICE, process)
            else:
                take_back(process, niceness, session=self._session)
        return longest_s > self._starved_s


def _threads(process: int) -> list[Path]:
    """Give the folders of a process's threads but the first; none where there is no such thing."""
    return [one for one in Path(f"/proc/{process}/task").glob("*") if one.name != str(process)]


def longest_waits(threads: list[Path], read: int) -> Iterator[float]:
    """Give again and again for how long one of these threads has got no core, though not at rest.

    Until the end of the file, which comes at the other's death too.
    """
    seen: dict[Path, tuple[str, float]] = {}
    while not select.select([read], [], [], _LOOK_S)[0]:
        now_s = time.monotonic()
        longest_s = 0.0
        for thread in threads:
            if (ran := _ran(thread)) is None:
                seen.pop(thread, None)
            elif seen.setdefault(thread, (ran, now_s))[0] == ran:
                longest_s = max(longest_s, now_s - seen[thread][1])
            else:
                seen[thread] = ran, now_s
        yield longest_s


def _ran(thread: Path) -> str | None:
    """Give how long a thread has run so far; None of one that is at rest, or has ended.

    What was stopped, or waits for a page of a file, is not at rest.
    """
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
        return (thread / "schedstat").read_text().split()[0] if state != "S" else None
    except OSError:  # or this system does not tell
        return None
