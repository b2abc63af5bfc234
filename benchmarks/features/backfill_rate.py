"""Events per second of CPU that a backfill computes, over a synthetic month.

Usage::

    python -m benchmarks.features.backfill_rate [--events 2000000] [--users 50000] [--views NAMES]

Writes an event log of a month into a temporary folder, then backfills all declared views from it
into memory, so that what Redis does is not counted. Each user acts in four of forty categories.
Rates are per second of this process's CPU time, all threads together, and of wall time. Prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from recsys.clock import DAY_MS
from recsys.errors import RecsysError
from recsys.events.event_columns import SCHEMA
from recsys.events.log_files import Commit, Part, commit_path, date_of, part_name
from recsys.events.topics import Topics
from recsys.features import collector, current_plan
from recsys.features.backfill import backfill
from recsys.features.hashes import MemoryHashes, Write

NUM_ITEMS = 20_000
NUM_CATEGORIES = 40
NUM_DAYS = 30
START_MS = 1_760_000_000_000 // DAY_MS * DAY_MS


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.backfill_rate")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--views", default="", help="comma-separated; only these (default: all)")
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = current_plan.ensure(folder / "state", project="month")
            if arguments.views:
                chosen = tuple(plan.view(name) for name in arguments.views.split(","))
                plan = msgspec.structs.replace(plan, views=chosen, services={})
            write_month(folder / "log", arguments.events, arguments.users)
            hashes = Kept()
            profile = cProfile.Profile()
            if arguments.profile:
                profile.enable()
            collector.calm()
            wall_s, cpu_s = time.monotonic(), time.process_time()
            result = backfill(folder / "log", plan, hashes, hashes, folder / "work")
            wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
            if arguments.profile:
                profile.disable()
                profile.dump_stats(arguments.profile)
    except RecsysError as error:
        sys.stderr.write(f"backfill_rate: {error}\n")
        return 1
    report = {
        "events": result.num_events,
        "users": arguments.users,
        "features": sum(len(view.features) for view in plan.views),
        "entities": result.num_entities,
        "cpu_s": round(cpu_s, 2),
        "events_per_cpu_s": round(result.num_events / cpu_s),
        "events_per_s": round(result.num_events / wall_s),
        "load_average": round(os.getloadavg()[0], 1),
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


class Kept(MemoryHashes):
    """Keeps what is written as it is: cutting it into fields is no work of a backfill."""

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        """Take each write for the first of its key."""
        for write in writes:
            self.content[write.key] = write.fields  # type: ignore[assignment]
        return []


def write_month(log_dir: Path, num_events: int, num_users: int) -> None:
    """Write an event log: a catalogue, then interactions and some impressions, day by day."""
    rng = np.random.default_rng(3)
    topics = Topics(namespace="month")
    items = pl.DataFrame(
        {
            "item_id": [f"item-{n}" for n in range(NUM_ITEMS)],
            "category": [f"category-{n % NUM_CATEGORIES}" for n in range(NUM_ITEMS)],
            "title": [f"Item {n}" for n in range(NUM_ITEMS)],
            "attributes": ["{}"] * NUM_ITEMS,
            "available": [True] * NUM_ITEMS,
            "text": [""] * NUM_ITEMS,
        }
    ).with_columns(kind=pl.lit("item"), event_time_ms=START_MS - DAY_MS)
    _write(log_dir, topics.items, 0, 0, items)
    per_category = NUM_ITEMS // NUM_CATEGORIES
    popularity = 1.0 / np.arange(1, per_category + 1) ** 0.8
    popularity /= popularity.sum()
    favourites = rng.integers(0, NUM_CATEGORIES, (num_users, 4))
    per_day = num_events // NUM_DAYS
    first = 0
    for day in range(NUM_DAYS):
        user = rng.integers(0, num_users, per_day)
        category = favourites[user, rng.integers(0, 4, per_day)]
        item = rng.choice(per_category, per_day, p=popularity) * NUM_CATEGORIES + category
        shown = rng.random(per_day) < 0.1
        bought = rng.random(per_day) < 0.05
        times = np.sort(rng.integers(0, DAY_MS, per_day)) + START_MS + day * DAY_MS
        names = [f"item-{n}" for n in item.tolist()]
        rows = pl.DataFrame(
            {
                "user_id": [f"user-{n}" for n in user.tolist()],
                "item_id": names,
                "kind": np.where(shown, "impression", "interaction"),
                "type": np.where(bought, "purchase", "view"),
                "value": rng.uniform(1, 50, per_day),
                "event_time_ms": times,
                "event_id": [f"event-{first + n}" for n in range(per_day)],
            }
        )
        is_shown = pl.col("kind") == "impression"
        rows = rows.with_columns(
            items=pl.when(is_shown).then(pl.concat_list("item_id")),
            item_id=pl.when(~is_shown).then("item_id"),
            type=pl.when(~is_shown).then("type"),
        )
        _write(log_dir, topics.behaviour, 0, first, rows)
        first += per_day


def _write(log_dir: Path, topic: str, partition: int, first: int, rows: pl.DataFrame) -> None:
    number = pl.int_range(len(rows), dtype=pl.Int64)
    rows = rows.with_columns(
        topic=pl.lit(topic), partition=pl.lit(partition), offset=number + first,
        ingest_time_ms=pl.col("event_time_ms") + 50, schema_version=pl.lit(1),
    )  # fmt: skip
    if "event_id" not in rows.columns:
        rows = rows.with_columns(event_id=pl.lit(topic) + number.cast(pl.String))
    whole = pl.concat([pl.DataFrame(schema=SCHEMA), rows], how="diagonal_relaxed")
    whole = whole.select([pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()])
    date = date_of(int(rows["event_time_ms"][0]))
    name = part_name(topic, partition, first, "0")
    path = log_dir / topic / f"date={date}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.write_parquet(path)
    part = Part.of(path.read_bytes(), date=date, name=name, rows=len(rows))
    follows = first - 1 if first else None
    commit = Commit(last=first + len(rows) - 1, parts=[part], follows=follows)
    path = commit_path(log_dir, topic, partition, first)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(commit))


if __name__ == "__main__":
    sys.exit(main())
