"""The files that say which stream workers of this machine consume."""

from __future__ import annotations

import json
from pathlib import Path

from recsys.settings import Settings


def ready_file(settings: Settings, number: int = 0) -> Path:
    """Give the file worker ``number`` of this machine writes while it consumes: its ``pid``."""
    name = f"stream_worker-{number}" if number else "stream_worker"
    return settings.run_dir / f"{name}.ready"


def ready_pids(settings: Settings) -> list[int]:
    """Give the processes of all workers of this machine that consume."""
    pids = []
    for path in sorted(settings.run_dir.glob("stream_worker*.ready")):
        try:
            pids.append(int(json.loads(path.read_text())["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # just being written or removed
    return pids
