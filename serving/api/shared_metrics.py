"""The metrics of all API workers of one machine as one answer.

With several workers ``recsys up`` names a folder in ``PROMETHEUS_MULTIPROC_DIR``. Each process then
keeps its numbers in files there, and whichever is asked adds them up: counters and histograms are
sums that a restart does not set back, gauges the largest (or the sum) of the living.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LIVE_GAUGE = re.compile(r"gauge_live\w+?_(\d+)\.db")


def metrics_text() -> bytes:
    """Give the metrics of all workers in Prometheus' text format."""
    # Not by the variable: Feast sets it too, when it is imported, and too late to mean anything.
    if not values.ValueClass._multiprocess:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_the_dead() -> None:
    """Remove the gauges of workers that were killed; what they counted stays counted."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return
    pids = {
        int(found[1]) for file in Path(folder).iterdir() if (found := _LIVE_GAUGE.match(file.name))
    }
    for pid in pids:
        if not psutil.pid_exists(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
