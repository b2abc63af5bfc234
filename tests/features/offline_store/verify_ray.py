"""Tasks on a real Ray give the same table as one process, and nothing else loads Ray.

``make verify-offline`` runs it: a Ray takes half a minute to start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOIN = """
import sys, warnings
warnings.simplefilter("ignore")
from datetime import timedelta
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from pyarrow import fs
from recsys.features.offline_store.computed import ComputedView
from recsys.features.offline_store.join import ViewJoin, join_views
from recsys.features.offline_store.parts import Parts
rng = np.random.default_rng(3)
stamp = pa.timestamp("us", "UTC")
rows = {"user": rng.integers(0, 50, 5000), "at": pa.array(rng.integers(0, 10**6, 5000), stamp),
        "words": [["w"] * int(n) for n in rng.integers(0, 3, 5000)], "score": rng.random(5000)}
pq.write_table(pa.table(rows), sys.argv[1], row_group_size=700)
class Length:
    def at(self, keys, moments_ms, *, known_by_ms=None):
        return pa.table({"length": [len(k) + int(t) for k, t in zip(keys["name"], moments_ms)]})
parts = Parts((sys.argv[1],), fs.LocalFileSystem(), "rows")
views = [
    ViewJoin("v", parts, (("user", "user"),), "at", None, timedelta(microseconds=9000),
             (("words", "words"), ("score", "score"))),
    ComputedView("c", Length(), (("name", "text"),), (("length", "length"),)),
    ViewJoin("all", parts, (), "at", None, None, (("score", "newest"),)),
]
labels = pa.table({"n": np.arange(400), "user": rng.integers(0, 60, 400),
                   "text": ["x" * (k % 7) for k in range(400)],
                   "at": pa.array(rng.integers(0, 10**6, 400), stamp)})
here = join_views(labels, "at", views, 1 << 20)
assert "ray" not in sys.modules
from recsys.features.offline_store.ray_tasks import join_on_ray
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
there = join_on_ray(labels, "at", views, 1 << 20, 3)
assert 0 < here.column("score").null_count < 400
assert there.to_pylist() == here.to_pylist()
ray.shutdown()
print("equal")
"""


@pytest.mark.timeout(180)
def test_ray_tasks_give_the_table_of_one_process(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", JOIN, str(tmp_path / "rows.parquet")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert said.stdout.strip().endswith("equal"), said.stderr[-3000:]
