"""Loads a bundle with what the machine has to spare: a live one beside it goes on as before.

Importing torch and reading a bundle is seconds of CPU. They are spent in a thread of the lowest
priority, which on Linux is a thread's own and goes with it; requests are then computed in Triton's
thread, at the usual one. (A process cannot raise its priority again without a privilege.) Where the
system weighs sessions, the process has one of its own, which is the lowest for as long
(``recsys/spare_time_limit.py``). Where nothing else is loaded, after Triton was restarted say,
there is nobody to be gentle to, nor where this bundle is the one that should answer: requests wait
for it. Where the machine has nothing to spare, a bundle is loaded as usual after a while, or a
publication would never end.

Out of Triton's session and so of its group of processes, this one is not reached by a signal to
them; Triton's program around it looks three times a second whether its parent lives, and ends.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from recsys.bundle.live_pointer import LivePointer
from recsys.errors import BundleError
from recsys.spare_time import SPARE_S, leave_session, weigh_least
from recsys.spare_time_limit import SpareTimeLimit

if TYPE_CHECKING:
    from serving.model_repository.backend import ServedModel

logger = logging.getLogger(__name__)

_TAKEN_FOR_DEAD_S = 0.7
"""While it loads, Triton looks every second whether it lives, which a thread of Triton's in it says
every .3 s. What Triton takes for dead it waits for the end of, for good if it lives on (24.10,
``StubLauncher::Launch``): the model is "loading" until Triton is started anew."""


class TritonPythonModel:
    """What Triton calls (its own contract: initialize, execute, finalize)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle, then start what keeps it fresh."""
        gently = others_are_loaded() and not is_live(args)
        alone = leave_session()
        limit_s = SPARE_S if gently else 0.0
        with SpareTimeLimit(limit_s, session=alone, starved_s=_TAKEN_FOR_DEAD_S) as limit:
            self._served = load(args, gently=gently)
            # Not in the loading thread: threads inherit its priority.
            self._served.start()
        if limit.starved:
            logger.error(
                "this process got no core for over %g s: Triton may have taken it for dead and "
                "waits for its end; load the model again",
                _TAKEN_FOR_DEAD_S,
            )
            os._exit(1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Stop the background threads; Triton calls this before it ends the process."""
        self._served.stop()


def load(args: dict[str, str], *, gently: bool) -> ServedModel:
    """Give a loaded bundle that does nothing yet. Raises what loading raises."""
    loaded: list[ServedModel] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if gently:
                weigh_least(threading.get_native_id())
            gc.disable()  # of what is made here hardly anything is garbage: .2 s of CPU
            from serving.model_repository.backend import ServedModel

            loaded.append(ServedModel(args))
            gc.collect()
            gc.freeze()  # else a collection beside requests would look at all of it
        except BaseException as error:  # noqa: BLE001  raised below
            failed.append(error)
        finally:
            gc.enable()

    thread = threading.Thread(target=work, name="gentle-start")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return loaded[0]


def leave_at_once() -> None:
    """End this process without taking the interpreter down, which was over a second of CPU.

    For ``atexit``, before what is imported registers its own: that is done first.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def is_live(args: dict[str, str]) -> bool:
    """Say whether requests wait for this bundle: the pointer names it already."""
    parameters = json.loads(args["model_config"])["parameters"]
    path = Path(parameters["bundle_path"]["string_value"])
    try:
        return LivePointer(path.parent).bundle_id() == path.name
    except BundleError:  # damaged: who follows it says so
        return False


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
