"""What a request costs around the model at low load: ``python -m benchmarks.loadtest.overhead``.

Usage::

    python -m benchmarks.loadtest.overhead --state DIR [--calls 300] [--pause-ms 10] [--seed 0]

on the system that ``throughput prepare`` made. One caller asks in turn. Of each answer the API says
how long its call of the model server took (``Server-Timing``): the difference of the medians is
what API, Redis and HTTP add. Beside it, call by call in turn so that a machine that slows down
slows both, the model server is asked directly over a connection of our own with the same kind of
inputs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loadtest.connection import Answer, ConnectionPool
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.server_timing import note_stages
from benchmarks.loadtest.stretch import Asking, prepared
from benchmarks.loadtest.system import System, find_system, user_id
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.deadline import Deadline
from recsys.errors import RecsysError, ServerError
from recsys.inference.triton import TritonModel, TritonServer

_WARM_UP, _CALLS = 30, 300
_PAUSE_MS = 10.0
"""Between calls: low load. 0: a caller who asks again at once, so that nothing grows cold."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one JSON result; 1 with one line when that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest.overhead")
    parser.add_argument("--state", type=Path, required=True, help="folder of the system")
    parser.add_argument("--calls", type=int, default=_CALLS, help="of each kind")
    parser.add_argument(
        "--pause-ms", type=float, default=_PAUSE_MS, help="after each answer; default: %(default)g"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        system = find_system(options.state)
        record = json.loads((options.state / "prepared.json").read_text())
        asking = Asking(
            host="127.0.0.1",
            port=system.settings.api_port,
            user_ids=tuple(user_id(n) for n in range(record["users"])),
            seed=options.seed,
        )
        result = overhead(asking, system, calls=options.calls, pause_ms=options.pause_ms)
    except (RecsysError, OSError) as error:
        sys.stderr.write(f"overhead: {error}\n")
        return 1
    asked = {"calls": options.calls, "pause_ms": options.pause_ms, "seed": options.seed}
    sys.stdout.write(json.dumps(result | asked) + "\n")
    return 0


def overhead(
    asking: Asking, system: System, *, calls: int = _CALLS, pause_ms: float = _PAUSE_MS
) -> dict[str, float]:
    """Give medians in milliseconds of whole requests and of calls of the model server, those of the
    API (``in_api``) and our own, and the differences."""
    return asyncio.run(_overhead(asking, system, calls, pause_ms / 1e3))


async def _overhead(asking: Asking, system: System, calls: int, pause_s: float) -> dict[str, float]:
    store = BundleStore(system.settings.bundle_dir)
    live = store.live()
    if live is None:
        raise ServerError(
            f"wanted a live bundle in {system.settings.bundle_dir}, found none; publish one of "
            "those that `python -m benchmarks.loadtest.throughput prepare` made"
        )
    manifest = read_manifest(store.path(live))
    made: Any = users(manifest.dimensions, manifest.num_items, 1)
    inputs = {name: tensor.numpy() for name, tensor in made.items()}
    pool = ConnectionPool(asking.host, asking.port)
    whole: list[float] = []
    in_api: list[float] = []
    alone: list[float] = []
    requests = prepared(asking, _WARM_UP + calls, np.random.default_rng(asking.seed))
    async with TritonServer(system.endpoints.require_triton()) as server:
        model = TritonModel(server, live)
        for request in requests:
            await asyncio.sleep(pause_s)
            start = time.perf_counter()
            answer = await pool.send(request, timeout_s=5.0)
            whole.append(time.perf_counter() - start)
            in_api.append(_called_s(answer))
            await asyncio.sleep(pause_s)
            start = time.perf_counter()
            await model.recommend(inputs, Deadline.after_ms(5_000))
            alone.append(time.perf_counter() - start)
    pool.close()
    whole_ms, in_api_ms, alone_ms = (
        float(np.median(times[_WARM_UP:])) * 1e3 for times in (whole, in_api, alone)
    )
    return {
        "whole_p50_ms": round(whole_ms, 3),
        "triton_in_api_p50_ms": round(in_api_ms, 3),
        "triton_p50_ms": round(alone_ms, 3),
        "overhead_ms": round(whole_ms - in_api_ms, 3),
        "overhead_over_own_call_ms": round(whole_ms - alone_ms, 3),
    }


def _called_s(answer: Answer) -> float:
    stages: dict[str, list[float]] = {}
    note_stages(answer.timing, stages)
    if "recommend" not in stages:
        raise ServerError(
            f"wanted the stage recommend in Server-Timing of a full answer, found {answer.timing!r}"
            f" with status {answer.status}; is this API of an earlier version?"
        )
    return sum(stages["recommend"]) / 1e3


if __name__ == "__main__":
    sys.exit(main())
