"""``python -m training.verify_memory``: is memory bounded however large the log is?

Makes logs of growing size (``--events``), their example shards, and reads an epoch of batches, each
in a process of its own, and prints the most memory each took beyond what its imports take. Fails
when the largest log takes more than 1.5 times what one that fills a window takes.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.clock import DAY_MS
from recsys.data.vocabulary import Vocabulary
from recsys.features import current_plan
from recsys.models.encode import UserEncoding
from training.debug_bundle import DEBUG_END_MS
from training.examples.partitions import num_parts, write_parts
from training.examples.shards import read_entry
from training.examples.stream import WINDOW_ROWS, VisitShards
from training.examples.visits import VisitTask, make_visits, shard_name

_ITEMS, _EVENTS_PER_USER, _CATEGORIES, _BATCH = 1_000, 25, 20, 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement; 0 when memory is bounded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, action="append", help="default: 50,100,400 thousand")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.make is not None:
        return _make(args.make)
    if args.read is not None:
        return _read(args.read)
    sizes = args.events or [50_000, 100_000, 400_000]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        plan = current_plan.ensure(Path(name) / "plan", project="recsys")
        for size in sizes:
            folder = Path(name) / str(size)
            log = _log(size)
            parts = num_parts(size)
            write_parts(log.lazy(), folder / "cut", parts)
            task = VisitTask(
                parts=folder / "cut", out=folder, plan=plan,
                vocabulary=Vocabulary(
                    tuple(sorted(f"item-{i}" for i in range(_ITEMS))),
                    tuple(sorted(f"category-{i}" for i in range(_CATEGORIES))),
                ),
                encoding=UserEncoding(
                    history_length=64, num_tokens=4, user_activity=plan.user_activity_names,
                    num_categories=_CATEGORIES,
                    user_category_activity=plan.user_category_activity_names,
                ),
                pause_ms=60_000, from_ms=0, until_ms=DEBUG_END_MS,
            )  # fmt: skip
            task.save(folder / "task.pickle")
            (folder / "parts").write_bytes(pickle.dumps(parts))
            row = {"events": size, "parts": parts, "log_mb": round(log.estimated_size("mb"))}
            del log
            for what in ("make", "read"):
                done = subprocess.run(
                    [sys.executable, "-m", "training.verify_memory", f"--{what}", str(folder)],
                    check=True, stdout=subprocess.PIPE,
                )  # fmt: skip
                row |= json.loads(done.stdout)
            rows.append(row)
            sys.stderr.write(f"{row}\n")
    full = [row for row in rows if row["visits"] >= WINDOW_ROWS] or rows
    bounded = all(
        full[-1][key] <= 1.5 * max(full[0][key], 50) for key in ("make_peak_mb", "read_peak_mb")
    )
    sys.stdout.write(json.dumps({"bounded": bounded, "rows": rows}) + "\n")
    return 0 if bounded else 1


def _log(num_events: int) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    num_users = max(num_events // _EVENTS_PER_USER, 1)
    items = pl.DataFrame(
        {
            "kind": "item", "event_id": [f"i{i}" for i in range(_ITEMS)],
            "event_time_ms": DEBUG_END_MS - 90 * DAY_MS,
            "item_id": [f"item-{i}" for i in range(_ITEMS)],
            "category": [f"category-{i % _CATEGORIES}" for i in range(_ITEMS)],
        }
    )  # fmt: skip
    acts = pl.DataFrame(
        {
            "event_time_ms": np.sort(
                DEBUG_END_MS - rng.integers(1, 89 * DAY_MS, num_events)
            ),
            "user": rng.integers(0, num_users, num_events),
            "item": rng.integers(0, _ITEMS, num_events),
        }
    ).select(
        pl.lit("interaction").alias("kind"),
        ("e" + pl.int_range(pl.len()).cast(pl.String)).alias("event_id"),
        "event_time_ms",
        ("user-" + pl.col("user").cast(pl.String)).alias("user_id"),
        ("item-" + pl.col("item").cast(pl.String)).alias("item_id"),
        pl.lit("purchase").alias("type"),
        pl.lit(1.0).alias("value"),
    )  # fmt: skip
    return pl.concat([items, acts], how="diagonal")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _make(folder: Path) -> int:
    """Make every shard in this process; one after the other is what a Ray worker does."""
    before, began = _peak_mb(), time.process_time()
    parts = pickle.loads((folder / "parts").read_bytes())
    visits = sum(make_visits(folder / "task.pickle", part).num_rows for part in range(parts))
    took_s = time.process_time() - began
    told = {
        "visits": visits, "make_peak_mb": round(_peak_mb() - before),
        "make_cpu_us_per_visit": round(took_s / visits * 1e6, 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(told))
    return 0


def _read(folder: Path) -> int:
    """Read an epoch of batches."""
    before, began = _peak_mb(), time.process_time()
    parts = pickle.loads((folder / "parts").read_bytes())
    entries = [read_entry(folder, shard_name(part)) for part in range(parts)]
    shards = tuple(entry for entry in entries if entry is not None)
    visits = VisitShards(folder, shards).between(None, None)
    rows = 0
    for batch in visits.batches(_BATCH, torch.Generator().manual_seed(1)):
        rows += len(batch)
    took_s = time.process_time() - began
    told = {
        "read_peak_mb": round(_peak_mb() - before),
        "read_cpu_us_per_visit": round(took_s / rows * 1e6, 1),
        "disk_mb": round(sum(shard.num_bytes for shard in shards) / 1e6, 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
