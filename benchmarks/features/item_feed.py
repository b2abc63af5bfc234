"""``python -m benchmarks.features.item_feed``: what it costs to keep items' moving features fresh.

Starts a system of its own (``--items``) with as many stored items as the untrained bundle knows,
and loads the bundle ``--bundles`` times: the last one is live, the others are kept for a roll-back.
Measures, in this order: how long loading took and how much of it was the first read of all items;
the CPU of each bundle's process and of Redis while nothing is written, then while ``--writes``
items a second are (``--seconds`` each); and the time from a write in Redis until an answer of
``rank`` was computed with it. Prints one JSON line. It needs nothing of ours but the servers, so an
older version is measured by running this file there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.loadtest.system import System, make_system
from benchmarks.loadtest.untrained_bundle import TOWERS_ONLY, add_untrained_bundle, item_id
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.clock import now_ms
from recsys.deadline import Deadline
from recsys.features import current_plan, names
from recsys.features.aggregate_state import State, blobs_of_state, merge
from recsys.features.framing import Framed, frame
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import pack
from recsys.features.view import View
from recsys.inference.model import NUMPY_DTYPES
from recsys.inference.triton import TritonModel, TritonServer
from recsys.models import signature

_SERVERS = "redis,kafka,triton"
_CHUNK = 5_000
_PROBES = 60
_POLL_S = 0.002
"""Between two questions: what is measured is coarser by that and by the answer's own time."""
_PATIENCE_S = 30.0


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.features.item_feed", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--bundles", type=int, default=1)
    parser.add_argument("--writes", type=int, default=500, help="items a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="item-feed-") as folder:
        system = make_system(Path(folder), {})
        try:
            result = _measure(system, args)
        finally:
            system.run("down")
    head = {"items": args.items, "writes_per_s": args.writes, "seed": args.seed}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    sys.stdout.write(json.dumps(head | {"commit": commit} | result) + "\n")
    return 0


def _measure(system: System, args: argparse.Namespace) -> dict[str, Any]:
    settings = system.settings
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    system.run("up", "--only", _SERVERS)
    url = system.endpoints.require_redis()
    rng = np.random.default_rng(args.seed)
    written = _Writes(plan, url)
    for begin in range(0, args.items, _CHUNK):
        rows = np.arange(begin, min(begin + _CHUNK, args.items)) + 1
        written.send(rows, written.states(rng, len(rows)))
    loads = []
    for n in range(args.bundles):
        bundle = add_untrained_bundle(
            settings.bundle_dir, plan, num_items=args.items, mix=TOWERS_ONLY, seed=args.seed + n
        )
        start = time.perf_counter()
        system.run("publish", bundle)
        loads.append(round(time.perf_counter() - start, 2))
    log = system.run("logs", "triton", "--lines", "100000")
    first = [float(seconds) for seconds in re.findall(r"items in ([\d.]+) s", log)]
    result: dict[str, Any] = {"publish_s": loads, "first_read_s": first}
    time.sleep(3.0)
    result["idle_cpu_percent"] = _cpu(system, args.seconds)
    writer = multiprocessing.get_context("spawn").Process(
        target=_write, args=(plan, url, args.items, args.writes, args.seed), daemon=True
    )
    writer.start()
    try:
        time.sleep(4.0)
        result["written_cpu_percent"] = _cpu(system, args.seconds)
        result["write_to_rank_ms"] = asyncio.run(_seen(system, bundle, written, args.items, rng))
    finally:
        writer.kill()
    return result


class _Writes:
    """Writes states of items as the stream does, without its guard."""

    def __init__(self, plan: Plan, url: str) -> None:
        self._view: View = plan.view(names.ITEM_ACTIVITY)
        self._keys = EntityKeys(self._view, plan.project)
        self._client = RedisClient(url)

    def states(self, rng: np.random.Generator, count: int, *, most: int = 6) -> list[bytes]:
        """Give states with 1 to ``most`` tiles of each series, as of now."""
        view, now = self._view, now_ms()
        owner, series, tile = [], [], []
        for number, s in enumerate(view.series):
            each = rng.integers(1, most + 1, count)
            owner.append(np.repeat(np.arange(count), each))
            series.append(np.full(len(owner[-1]), number, dtype=np.uint8))
            tile.append(now // s.slide_ms - rng.integers(0, s.num_tiles, len(owner[-1])))
        total = sum(map(len, owner))
        parts = {c: rng.integers(1, 200, total) for c in view.components}
        state = State(
            np.concatenate(owner), np.concatenate(series), np.concatenate(tile), parts
        )  # fmt: skip
        payloads = blobs_of_state(view, merge(view, state), count)
        newest = np.full(count, now, dtype=np.int64)
        return frame(Framed([bytes(8)] * count, newest, payloads))

    def send(self, rows: Sequence[int] | np.ndarray[Any, Any], states: Sequence[bytes]) -> None:
        """Write the states of items."""
        keys = self._keys.of_all([(item_id(int(row)),) for row in rows])
        field = self._view.state_field
        self._client.call(
            keys, [pack(b"HSET", k, field, s) for k, s in zip(keys, states, strict=True)]
        )


def _write(plan: Plan, url: str, num_items: int, rate: int, seed: int) -> None:
    """Write that many items a second, for ever, each drawn from all."""
    writes, rng = _Writes(plan, url), np.random.default_rng(seed + 1)
    pool = writes.states(rng, 2_000)
    begin, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begin) * rate) - done
        if due:
            rows = rng.integers(1, num_items + 1, due)
            writes.send(rows, [pool[n] for n in rng.integers(0, len(pool), len(rows))])
            done += due
        time.sleep(0.02)


def _cpu(system: System, seconds: float) -> dict[str, Any]:
    """Give the percent of a core of each bundle's process and of Redis."""
    pids = {server["name"]: server["pid"] for server in _status(system)}
    children = psutil.Process(pids["triton"]).children(recursive=True)
    models = [p for p in children if "stub" in p.name()]
    redis = psutil.Process(pids["redis"])
    watched = [*models, redis, *redis.children(recursive=True)]
    before = [sum(p.cpu_times()[:2]) for p in watched]
    time.sleep(seconds)
    spent = [
        (sum(p.cpu_times()[:2]) - b) / seconds * 100 for p, b in zip(watched, before, strict=True)
    ]
    count = len(models)
    return {
        "models": [round(s, 2) for s in spent[:count]], "redis": round(sum(spent[count:]), 2),
        "models_rss_mib": [round(p.memory_info().rss / 2**20) for p in models],
    }  # fmt: skip


def _status(system: System) -> list[dict[str, Any]]:
    servers: list[dict[str, Any]] = json.loads(system.run("status", "--json"))["servers"]
    return servers


async def _seen(
    system: System, bundle: str, writes: _Writes, num_items: int, rng: np.random.Generator
) -> dict[str, float]:
    """Give the milliseconds from a write to the first answer of ``rank`` that was made with it."""
    dimensions = read_manifest(BundleStore(system.settings.bundle_dir).path(bundle)).dimensions
    inputs = {
        spec.name: np.zeros((1, *(max(1, n) for n in spec.shape)), NUMPY_DTYPES[spec.dtype])
        for spec in signature.rank_inputs(dimensions)
    }
    took: list[float] = []
    ages: list[int] = []
    async with TritonServer(system.endpoints.require_triton()) as server:
        model = TritonModel(server, bundle)

        async def activity(row: int) -> bytes:
            inputs["candidate_index"] = np.array([[row]], dtype=np.int32)
            answer = await model.rank(inputs, Deadline.after_ms(5_000))
            ages.append(int(answer["item_age_ms"][0, 0]))
            return answer["item_activity"].tobytes()

        for _ in range(_PROBES):
            row = int(rng.integers(num_items // 2, num_items)) + 1
            before = await activity(row)
            (state,) = writes.states(rng, 1)
            start = time.perf_counter()
            writes.send([row], [state])
            while await activity(row) == before:
                if time.perf_counter() - start > _PATIENCE_S:
                    raise RuntimeError(f"the write was not seen within {_PATIENCE_S:g} s")
                await asyncio.sleep(_POLL_S)
            took.append((time.perf_counter() - start) * 1e3)
            await asyncio.sleep(float(rng.random()) * 0.3)
    return {
        "p50": round(float(np.percentile(took, 50)), 1),
        "p99": round(float(np.percentile(took, 99)), 1), "greatest_age": max(ages),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
