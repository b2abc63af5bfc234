"""The files that say which stream workers of this machine consume, and what they can be asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from recsys.settings import Settings


def ready_file(settings: Settings, number: int = 0) -> Path:
    """Give the file worker ``number`` of this machine writes while it consumes: its ``pid``."""
    name = f"stream_worker-{number}" if number else "stream_worker"
    return settings.run_dir / f"{name}.ready"


def exposures_ready_file(settings: Settings) -> Path:
    """Give the file the process that logs exposures writes while it consumes: its ``pid``."""
    return settings.run_dir / "exposures.ready"


def api_ready_file(settings: Settings, number: int) -> Path:
    """Give the file API process ``number`` of this machine writes while it serves: its ``pid``."""
    return settings.run_dir / f"api-{number}.ready"


def ready_pids(settings: Settings) -> list[int]:
    """Give the processes of all workers of this machine that consume."""
    return _pids(sorted(settings.run_dir.glob("stream_worker*.ready")))


def _pids(paths: Iterable[Path]) -> list[int]:
    pids = []
    for path in paths:
        try:
            pids.append(int(json.loads(path.read_text())["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # just being written or removed
    return pids


def ask_to_store(settings: Settings) -> None:
    """Ask whoever writes the event log here to do it now; those elsewhere do when it is due."""
    for pid in [*ready_pids(settings), *_pids([exposures_ready_file(settings)])]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
