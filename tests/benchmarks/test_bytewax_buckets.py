"""Buckets written by hand give what the windows mean, event by event."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import benchmarks.peers as peers


@pytest.fixture(scope="module")
def buckets() -> ModuleType:
    # Beside a job that runs in an environment of its own, so in no package.
    path = Path(peers.__file__).parent / "bytewax" / "buckets.py"
    spec = importlib.util.spec_from_file_location("bytewax_buckets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_buckets_give_the_windows_of_all_events_so_far(buckets: ModuleType) -> None:
    rng = np.random.default_rng(3)
    minute, hour, day = 60_000, 3_600_000, 86_400_000
    spans = ((hour, 5 * minute), (day, hour), (7 * day, day), (30 * day, day))
    times = np.cumsum(rng.integers(1, 8 * hour, 300)).tolist()
    values = rng.integers(1, 90, 300).astype(float).tolist()
    state = buckets.empty()
    for n, (time_ms, value) in enumerate(zip(times, values, strict=True)):
        found = buckets.update(state, time_ms, value)
        for (window, slide), answer in zip(spans, found, strict=True):
            begin = (time_ms // slide + 1) * slide - window
            inside = [v for t, v in zip(times[: n + 1], values, strict=False) if t >= begin]
            mean = sum(inside) / len(inside)
            assert answer == (len(inside), sum(inside), mean, min(inside), max(inside))
