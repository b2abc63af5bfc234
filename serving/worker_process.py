"""What processes that read the log have in common: signals, the ready file, log lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from recsys.security.redaction import redact_logs


class Stop:
    """Set by a signal, asked between batches.

    SIGTERM and SIGINT ask to stop; SIGUSR1 asks to write the event log's buffer now, which
    otherwise waits until it is full or a minute old (``recsys lag --wait`` sends it).
    """

    def __init__(self) -> None:
        self.asked = False
        self._store_asked = False
        signal.signal(signal.SIGUSR1, self._ask_to_store)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _ask_to_store(self, _signal: int, _frame: FrameType | None) -> None:
        self._store_asked = True

    def take_store(self) -> bool:
        """Tell whether SIGUSR1 came since this was last asked."""
        asked, self._store_asked = self._store_asked, False
        return asked

    def __call__(self) -> bool:
        """Tell whether SIGTERM or SIGINT came."""
        return self.asked


def write_ready(path: Path) -> None:
    """Say that this process consumes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid()}))
    temporary.replace(path)


def remove_own(path: Path) -> None:
    """Take back what this process said; another's file stays."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()


def log_to_stderr() -> None:
    """Log a constant message a line, its fields behind it as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    redact_logs()
    logging.getLogger("kafka").setLevel(logging.ERROR)


class _Fields(logging.Formatter):
    """A constant message, its fields behind it as JSON."""

    _OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in self._OWN}
        line = super().format(record)
        return f"{line} {json.dumps(fields, default=str)}" if fields else line
