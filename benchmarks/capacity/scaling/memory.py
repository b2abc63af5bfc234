"""What items take of memory: of a model server's process, of an API process, of Redis.

A fresh process loads the bundle, as a model server does (``exact``, ``approximate``) or as an API
process does (``api``), with room for as many created items as either has unless set otherwise.
``item hash`` is what the stream keeps of an item: names and values.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.capacity.scaling import store
from benchmarks.capacity.scaling.bundles import bundle_of
from benchmarks.capacity.scaling.points import Task
from benchmarks.loadtest.untrained_bundle import Shape
from recsys.errors import ServerError
from recsys.features.plan import Plan
from recsys.retrieval.search_choice import Search
from recsys.settings import Settings

ITEMS: dict[Search, tuple[int, ...]] = {
    "exact": (20_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    "approximate": (50_000, 100_000, 300_000, 1_000_000, 3_000_000),
}
API_ITEMS = (20_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
HELD_OUT = {("exact", 30_000), ("approximate", 300_000)}
"""The catalogues of the held-out configurations (``system.py``): no law is fitted to these."""
_ROOM = Settings.model_fields["max_created_items"].default
_JOB = """
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.loadtest.kernels import users
from recsys.bundle.load import load_serving_model
from recsys.inference.allocation import keep_freed_memory
from recsys.inference.compute import answer

keep_freed_memory()
torch.set_num_threads(1)
model = load_serving_model(Path(sys.argv[1]), room=int(sys.argv[2]))
drawn = users(model.dimensions, model.num_items, 64)
for at in range(0, 64, 8):
    answer(model, {n: t[at : at + 8] for n, t in drawn.items()}, num_candidates=500)
print(psutil.Process().memory_info().rss)
"""

_API_JOB = """
import sys
from pathlib import Path

import psutil

from recsys.bundle.served import load_served_bundle

bundle = load_served_bundle(Path(sys.argv[1]), room=int(sys.argv[2]))
print(psutil.Process().memory_info().rss)
"""


def tasks(folder: Path, plan: Plan, *, most_items: int) -> list[Task]:
    """Give the points up to ``most_items``."""
    points: list[tuple[str, Search, str, int]] = [
        (kind, kind, _JOB, items) for kind, sizes in ITEMS.items() for items in sizes
    ]
    points += [("api", "exact", _API_JOB, items) for items in API_ITEMS]
    made = [
        Task(
            name=f"items={items} {kind}", settings={"items": items, "kind": kind},
            run=_run(folder, plan, items, search, job),
        )
        for kind, search, job, items in points
        if items <= most_items
    ]  # fmt: skip
    settings = {"items": store.NUM_ITEMS, "kind": "item hash"}
    hashes = Task(
        name="item hash", settings=settings, run=lambda: {"bytes": store.item_hash_bytes(plan)}
    )
    return [*made, hashes]


def _run(
    folder: Path, plan: Plan, items: int, search: Search, job: str
) -> Callable[[], dict[str, int]]:
    def run() -> dict[str, int]:
        bundle = bundle_of(folder, plan, items, Shape(search=search))
        done = subprocess.run(
            [sys.executable, "-c", job, str(bundle), str(_ROOM)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServerError(f"wanted the bundle to answer, found {done.stderr.strip()[-500:]}")
        return {"bytes": int(json.loads(done.stdout))}

    return run
