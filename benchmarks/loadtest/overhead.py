"""What a request costs around the model at low load: whole requests beside calls of Triton alone.

One caller asks in turn; between whole requests the model server is asked directly, with the same
kind of inputs, over a connection of our own. The difference of the medians is what the API, Redis
and HTTP add. Both are also read from the API's own histogram, which knows the very calls.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from benchmarks.loadtest.connection import ConnectionPool
from benchmarks.loadtest.greatest_rate import Asking, prepared
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.system import System
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.deadline import Deadline
from recsys.inference.triton import TritonModel, TritonServer

_WARM_UP, _CALLS = 30, 300
_PAUSE_S = 0.01
"""Between calls: low load, not as fast as it goes."""


def overhead(asking: Asking, system: System) -> dict[str, float]:
    """Give medians in milliseconds: ``whole_p50``, ``triton_p50`` and their difference."""
    return asyncio.run(_overhead(asking, system))


async def _overhead(asking: Asking, system: System) -> dict[str, float]:
    store = BundleStore(system.settings.bundle_dir)
    live = store.live()
    assert live is not None, "published just before"
    manifest = read_manifest(store.path(live))
    made: Any = users(manifest.dimensions, manifest.num_items, 1)
    inputs = {name: tensor.numpy() for name, tensor in made.items()}
    pool = ConnectionPool(asking.host, asking.port)
    whole: list[float] = []
    alone: list[float] = []
    requests = prepared(asking, _WARM_UP + _CALLS, np.random.default_rng(asking.seed))
    async with TritonServer(system.endpoints.require_triton()) as server:
        model = TritonModel(server, live)
        for request in requests:
            await asyncio.sleep(_PAUSE_S)
            start = time.perf_counter()
            await pool.send(request, timeout_s=5.0)
            whole.append(time.perf_counter() - start)
            await asyncio.sleep(_PAUSE_S)
            start = time.perf_counter()
            await model.recommend(inputs, Deadline.after_ms(5_000))
            alone.append(time.perf_counter() - start)
    pool.close()
    medians = [float(np.median(times[_WARM_UP:])) * 1e3 for times in (whole, alone)]
    return {
        "whole_p50_ms": round(medians[0], 3),
        "triton_p50_ms": round(medians[1], 3),
        "overhead_ms": round(medians[0] - medians[1], 3),
    }
