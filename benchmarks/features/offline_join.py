"""``python -m benchmarks.features.offline_join``: our point-in-time join, Feast's, and others'.

Labels join three views (20 float32 features; 20 float32 and a string; 8 float32; TTL 5 days)
through ``get_historical_features`` with our offline store, with Feast's DuckDB store (the one of
Feast's that is right), and with bare Polars, pandas and DuckDB over the same files
(``join_engines.py``). Every measurement is a child process, so that its peak memory is its own, and
the engines take turns. The time runs
from asking to the Arrow table; imports and the making of the store are not in it. Peak memory is
the whole process's, ``before_mib`` of it imports, store and labels. Feast loads torch wherever it
is installed, though no join needs it: the children hide it, unless ``--torch`` says otherwise.

Options: ``--labels 10000,100000,1000000 --rounds 3 --scale 1.0 --seed 7 --torch``. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.features.join_engines import WITHOUT_FEAST, JoinTask
from benchmarks.peers.surroundings import surroundings

ENGINES = ("ours", "feast_duckdb", *WITHOUT_FEAST)
TTL = timedelta(days=5)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS = 14
_VIEWS = {  # view: (key, entities, rows, float features, string features)
    "item_stats": ("item_id", 20_000, 2_000_000, 20, 0),
    "user_stats": ("user_id", 100_000, 2_000_000, 20, 1),
    "user_activity": ("user_id", 100_000, 3_000_000, 8, 0),
}
_OURS = "recsys.features.offline_store.PointInTimeOfflineStore"


def generate(folder: Path, labels: list[int], scale: float, seed: int) -> None:
    """Write the three sources, in the order of their events, and label frames of each size."""
    rng = np.random.default_rng(seed)
    start_us = int(_START.timestamp()) * 1_000_000
    span_us = _DAYS * 86_400 * 1_000_000
    for view, (key, entities, rows, floats, strings) in _VIEWS.items():
        rows = int(rows * scale)
        event = np.sort(rng.integers(start_us, start_us + span_us, rows))
        created = event + rng.integers(0, 60_000_000, rows)
        columns: dict[str, Any] = {
            key: rng.integers(0, entities, rows),
            "event_timestamp": pa.array(event, pa.timestamp("us", "UTC")),
            "created": pa.array(created, pa.timestamp("us", "UTC")),
        }
        for n in range(floats):
            columns[f"{view}_f{n}"] = rng.random(rows, dtype=np.float32)
        for n in range(strings):
            words = pa.array([f"segment-{w}" for w in range(1000)])
            columns[f"{view}_s{n}"] = words.take(pa.array(rng.integers(0, 1000, rows)))
        pq.write_table(pa.table(columns), folder / f"{view}.parquet", row_group_size=1 << 17)
    for size in labels:
        moments = rng.integers(start_us, start_us + span_us, size)
        frame = {
            "user_id": rng.integers(0, _VIEWS["user_stats"][1], size),
            "item_id": rng.integers(0, _VIEWS["item_stats"][1], size),
            "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(frame), folder / f"labels_{size}.parquet")


def _features(view: str) -> list[str]:
    _, _, _, floats, strings = _VIEWS[view]
    return [f"{view}_f{n}" for n in range(floats)] + [f"{view}_s{n}" for n in range(strings)]


def _through_feast(folder: Path, offline: str) -> Callable[[pa.Table], pa.Table]:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float32, String

    (folder / offline).mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / offline / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / offline / "online.db")},
            offline_store={"type": offline},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.INT64)
        for key in ("user_id", "item_id")
    }
    views = [
        FeatureView(
            name=view,
            entities=[entities[key]],
            ttl=TTL,
            schema=[
                Field(name=name, dtype=String if "_s" in name[-3:] else Float32)
                for name in _features(view)
            ],
            source=FileSource(
                name=f"{view}_rows",
                path=str(folder / f"{view}.parquet"),
                timestamp_field="event_timestamp",
                created_timestamp_column="created",
            ),
        )
        for view, (key, *_) in _VIEWS.items()
    ]
    store.apply([*entities.values(), *views])
    wanted = [f"{view}:{name}" for view in _VIEWS for name in _features(view)]

    def ask(labels: pa.Table) -> pa.Table:
        return store.get_historical_features(labels.to_pandas(), wanted).to_arrow()

    return ask


def measure(folder: Path, engine: str, size: int, *, torch: bool) -> dict[str, Any]:
    """Ask one engine once; what it took, and a digest of what it answered."""
    warnings.simplefilter("ignore")
    if not torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    through_feast = {"ours": _OURS, "feast_duckdb": "duckdb"}
    if engine in through_feast:
        ask = _through_feast(folder, through_feast[engine])
    else:
        task = JoinTask(
            folder=folder,
            keys={view: key for view, (key, *_) in _VIEWS.items()},
            features={view: _features(view) for view in _VIEWS},
            ttl=TTL,
        )
        ask = WITHOUT_FEAST[engine](task)
    labels = pq.read_table(folder / f"labels_{size}.parquet")
    before = _peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    answer = ask(labels)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_mib()
    values = [answer.column(n).cast(pa.float64()) for n in answer.column_names if "_f" in n]
    return {
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "peak_mib": round(peak),
        "before_mib": round(before),
        "rows": answer.num_rows,
        "found": int(sum(len(v) - v.null_count for v in values)),
        "sum": round(float(sum(np.nansum(v.to_numpy()) for v in values)), 3),
    }


def _peak_mib() -> float:
    # Not getrusage: a child's begins with the peak of the process that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status: no VmHWM; this benchmark needs Linux")


def main(argv: list[str] | None = None) -> int:
    """Generate, let the engines take turns, print one JSON result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--labels", default="10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sources' rows")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--torch", action="store_true", help="let Feast load torch")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "ENGINE", "LABELS"))
    options = parser.parse_args([] if argv is None else argv)
    if options.child:
        folder, engine, size = options.child
        found = measure(Path(folder), engine, int(size), torch=options.torch)
        sys.stdout.write(json.dumps(found))
        return 0
    sizes = [int(size) for size in options.labels.split(",")]
    engines = options.engines.split(",")
    with tempfile.TemporaryDirectory(prefix="offline_join_") as name:
        generate(Path(name), sizes, options.scale, options.seed)
        result = {
            "benchmark": "features.offline_join",
            "labels": {
                str(size): _compared(name, engines, size, options.rounds, torch=options.torch)
                for size in sizes
            },
            "seed": options.seed,
            "rounds": options.rounds,
            "rows": {view: int(shape[2] * options.scale) for view, shape in _VIEWS.items()},
            "ttl_s": int(TTL.total_seconds()),
            "versions": {
                name: version(name)
                for name in ("feast", "duckdb", "polars", "pyarrow", "numpy", "pandas")
            },
            **surroundings(),
        }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _compared(
    folder: str, engines: list[str], size: int, rounds: int, *, torch: bool
) -> dict[str, Any]:
    options = ["--torch"] if torch else []
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            child = subprocess.run(
                [
                    *(sys.executable, "-m", __spec__.name),
                    *("--child", folder, engine, str(size), *options),
                ],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            runs[engine].append(json.loads(child.stdout.splitlines()[-1]))
    answers = {(r["rows"], r["found"]) for many in runs.values() for r in many}
    if len(answers) != 1:
        raise SystemExit(f"the engines do not agree on {size} labels: {runs}")
    medians: dict[str, dict[str, Any]] = {
        engine: {
            name: statistics.median(run[name] for run in many)
            for name in ("wall_s", "cpu_s", "peak_mib", "before_mib")
        }
        for engine, many in runs.items()
    }
    if "ours" in medians:
        for engine in engines:
            for unit in ("wall_s", "cpu_s"):
                ratio = medians[engine][unit] / medians["ours"][unit]
                medians[engine][f"{unit[:-2]}_ratio_to_ours"] = round(ratio, 2)
                by_round = sorted(
                    theirs[unit] / ours[unit]
                    for theirs, ours in zip(runs[engine], runs["ours"], strict=True)
                )
                medians[engine][f"{unit[:-2]}_ratios"] = [
                    round(by_round[place], 2) for place in (0, len(by_round) // 2, -1)
                ]
    return medians


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
