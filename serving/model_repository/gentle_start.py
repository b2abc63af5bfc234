"""Loads a bundle with what the machine has to spare: a live one beside it goes on as before.

Importing torch and reading a bundle is seconds of CPU. They are spent in a thread of the lowest
priority, which on Linux is a thread's own and goes with it; requests are then computed in Triton's
thread, at the usual one. (A process cannot raise its priority again without a privilege.) Where the
system weighs sessions, the process has one of its own, which is the lowest for as long
(``recsys/spare_time.py``). Where nothing else is loaded, after Triton was restarted say, there is
nobody to be gentle to: requests wait for this bundle. Where the machine has nothing to spare, a
bundle is loaded as usual after a while, or a publication would never end.

Out of Triton's session and so of its group of processes, this one is not reached by a signal to
them; Triton's program around it looks three times a second whether its parent lives, and ends.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import psutil

from recsys.spare_time import (
    NICENESS,
    leave_session,
    weigh_as_usual,
    weigh_least,
    weigh_session,
)

if TYPE_CHECKING:
    from serving.model_repository.backend import ServedModel

logger = logging.getLogger(__name__)

_GENTLY_S = 45.0
"""So long a bundle is loaded with what is spare: twice what a million items take beside requests,
and less than half of what a publication waits (``inference/triton.py``)."""


class TritonPythonModel:
    """What Triton calls (its own contract: initialize, execute, finalize)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle, then start what keeps it fresh."""
        is_beside = others_are_loaded()
        self._is_alone_in_session = leave_session()
        if is_beside and self._is_alone_in_session:
            weigh_session(NICENESS)
        hurry = threading.Timer(_GENTLY_S, self._hurry)
        hurry.daemon = True
        if is_beside:
            hurry.start()
        try:
            self._served = load(args, gently=is_beside)
            # Not in the loading thread: threads inherit its priority.
            self._served.start()
        finally:
            hurry.cancel()
            if is_beside and self._is_alone_in_session:
                weigh_session(0)

    def _hurry(self) -> None:
        """Let what is loading take its share from now on."""
        logger.warning("not loaded with what is spare within %g s: loading as usual", _GENTLY_S)
        if self._is_alone_in_session:
            weigh_session(0)
        usual = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread, which nobody made gentle
        for thread in psutil.Process().threads():
            weigh_as_usual(thread.id, usual)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Stop the background threads; Triton calls this before it ends the process.

        Giving its memory back took .7 s of CPU, which nobody waits for.
        """
        if self._is_alone_in_session:
            weigh_session(NICENESS)
        self._served.stop()


def load(args: dict[str, str], *, gently: bool) -> ServedModel:
    """Give a loaded bundle that does nothing yet. Raises what loading raises."""
    loaded: list[ServedModel] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if gently:
                weigh_least(threading.get_native_id())
            from serving.model_repository.backend import ServedModel

            loaded.append(ServedModel(args))
        except BaseException as error:  # noqa: BLE001  raised below
            failed.append(error)

    thread = threading.Thread(target=work, name="gentle-start")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return loaded[0]


def others_are_loaded() -> bool:
    """Say whether this Triton runs another model: each is a child of the server, as we are."""
    ourselves = psutil.Process()
    server = ourselves.parent()
    if server is None:
        return False
    program = ourselves.cmdline()[:1]
    try:
        return any(
            child.pid != ourselves.pid and child.cmdline()[:1] == program
            for child in server.children()
        )
    except psutil.Error:  # one has just ended
        return True
