"""Where a comparison was measured: what every report of one says."""

from __future__ import annotations

import os
import platform

from benchmarks.machine import commit, processor
from recsys.wakefulness import cores_wake_within_us


def surroundings() -> dict[str, object]:
    """Give processor, cores, load, Python and commit."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "cores_wake_within_us": cores_wake_within_us(),
        "python": platform.python_version(),
        "commit": commit(),
    }
