"""Times several ways of one thing in turn, in one process, and compares their medians."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import cpu_count, getloadavg
from typing import Any

import numpy as np

Ways = Mapping[str, Callable[[], object]]
_BOOTSTRAPS = 2_000


def time_in_turn(ways: Ways, *, rounds: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Run each way once a round, in an order of its own each round.

    Gives wall and CPU seconds of this process, ``[rounds]`` each. The collector runs between rounds
    and not within them, as in a server that froze what it started with.
    """
    rng = np.random.default_rng(seed)
    taken = {name: {"wall": np.zeros(rounds), "cpu": np.zeros(rounds)} for name in ways}
    names = list(ways)
    for name in names:  # connections, caches, scripts
        for _ in range(3):
            ways[name]()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for turn in range(rounds):
            for place in rng.permutation(len(names)).tolist():
                run = ways[names[place]]
                cpu, wall = time.process_time(), time.perf_counter()
                run()
                taken[names[place]]["wall"][turn] = time.perf_counter() - wall
                taken[names[place]]["cpu"][turn] = time.process_time() - cpu
            if turn % 20 == 19:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return taken


def ratio(slow: np.ndarray, fast: np.ndarray, *, seed: int) -> dict[str, float]:
    """Give the ratio of the medians with a 95 % bootstrap interval over rounds."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(slow), (_BOOTSTRAPS, len(slow)))
    drawn = np.median(slow[picks], axis=1) / np.median(fast[picks], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "ratio": round(float(np.median(slow) / np.median(fast)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
    }


def difference(more: np.ndarray, less: np.ndarray, *, seed: int) -> dict[str, float]:
    """Give by how many microseconds the medians differ, with a 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(more), (_BOOTSTRAPS, len(more)))
    drawn = np.median(more[picks], axis=1) - np.median(less[picks], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "value": round(float(np.median(more) - np.median(less)) * 1e6, 1),
        "low": round(float(low) * 1e6, 1),
        "high": round(float(high) * 1e6, 1),
    }


def summary(taken: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Give median and 99th percentile of wall time and the median of CPU time, in ms."""
    return {
        name: {
            "p50_ms": round(float(np.median(t["wall"])) * 1e3, 4),
            "p99_ms": round(float(np.quantile(t["wall"], 0.99)) * 1e3, 4),
            "cpu_ms": round(float(np.median(t["cpu"])) * 1e3, 4),
        }
        for name, t in taken.items()
    }


def surroundings() -> dict[str, Any]:
    """Say where and with what this was measured."""
    packages = ("feast", "redis", "hiredis", "numpy", "protobuf")
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": f"{cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load": round(getloadavg()[0], 2),
    }
