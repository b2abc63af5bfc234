"""A polite stop: SIGTERM or Ctrl-C unwinds the run, which says what is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType
from typing import NoReturn

from training.pipeline.journal import Event


class Stop:
    """Handler of the signals that ask for it."""

    def __init__(self) -> None:
        self.code: int | None = None
        """Exit code of the command once it was asked for: 128 and the signal's number."""

    def install(self) -> None:
        """Take over SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for a shell's `command &`
            signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        """Unwind: servers end, the lease is let go. Asked again, the process ends at once.

        Then the kernel and the keeper of a local Ray do what is left to do.
        """
        del frame
        if self.code is not None:
            os._exit(128 + number)
        self.code = 128 + number
        raise SystemExit(self.code)


def kept(events: Iterable[Event]) -> str:
    """Say in words what of a run need not be done again, from its journal."""
    done: dict[str, None] = {}
    at_work, epoch = "", ""
    for event in events:
        match event["event"]:
            case "step_done" | "step_reused":
                done[event["step"]] = None
                at_work = epoch = ""
            case "step_started":
                epoch = "" if event["step"] != at_work else epoch
                at_work = event["step"]
            case "epoch":
                epoch = f"{event['phase']} up to its last checkpoint, about epoch {event['epoch']}"
                epoch += f" of {event['epochs']}"
    parts = [*([f"the steps {', '.join(done)}"] if done else []), *([epoch] if epoch else [])]
    return " and ".join(parts) if parts else "nothing, it had only begun"
