"""Loads a bundle with what the machine has to spare: a live one beside it goes on as before.

Importing torch and reading a bundle is seconds of CPU. They are spent in a thread of the lowest
priority, which on Linux is a thread's own and goes with it; requests are then computed in Triton's
thread, at the usual one. (A process cannot raise its priority again without a privilege.) Where
nothing else is loaded, after Triton was restarted say, there is nobody to be gentle to: requests
wait for this bundle.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from serving.model_repository.backend import ServedModel

_LOWEST = 19


class TritonPythonModel:
    """What Triton calls (its own contract: initialize, execute, finalize)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle, then start what keeps it fresh."""
        self._served = load_gently(args)
        # Not in the loading thread: threads inherit its priority.
        self._served.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Stop the background thread; Triton calls this before it ends the process."""
        self._served.stop()


def load_gently(args: dict[str, str]) -> ServedModel:
    """Give a loaded bundle that does nothing yet. Raises what loading raises."""
    loaded: list[ServedModel] = []
    failed: list[BaseException] = []

    def load() -> None:
        try:
            if others_are_loaded():
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
            from serving.model_repository.backend import ServedModel

            loaded.append(ServedModel(args))
        except BaseException as error:  # noqa: BLE001  raised below
            failed.append(error)

    thread = threading.Thread(target=load, name="gentle-start")
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
