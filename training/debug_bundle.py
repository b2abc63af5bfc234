"""A small bundle in seconds, from a made-up log: for tests and for trying out serving.

The log is tiny and has structure a model can find (users keep to one or two categories), but says
nothing of quality: for that there are the simulated world and real data.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.bundle.manifest import Objective
from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.features import current_plan
from recsys.features.plan import Plan
from recsys.models.config import RankerConfig
from recsys.retrieval.search_choice import Search
from training.bundle_run import make_bundle
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import debug
from training.source import Source

OBJECTIVES = (
    Objective(name="purchase", interaction="purchase", weight=1.0),
    Objective(name="bulk_purchase", interaction="purchase", min_value=12.0, weight=0.0),
)
DEBUG_END_MS = 1_760_000_000_000
"""When the made-up log ends, 2025-10-09."""
_COLOURS = ("red", "blue", "green", "ivory", "black", "pink")
_THINGS = ("mug", "lantern", "clock", "basket", "candle", "frame", "bag", "bowl")


def made_up_log(
    *, num_users: int = 60, num_items: int = 80, num_days: int = 30, seed: int = 7,
    end_ms: int = DEBUG_END_MS,
) -> pl.DataFrame:  # fmt: skip
    """Give a log of item, user and purchase events with the event log's columns.

    The last two items are never bought. Item identities are ``item-0`` …, users ``user-0`` ….
    """
    rng = np.random.default_rng(seed)
    begin_ms = end_ms - num_days * DAY_MS
    thing = [_THINGS[i % len(_THINGS)] for i in range(num_items)]
    title = [f"{_COLOURS[i // len(_THINGS) % len(_COLOURS)]} {t}" for i, t in enumerate(thing)]
    items = pl.DataFrame(
        {
            "kind": "item",
            "event_id": [f"item-event-{i}" for i in range(num_items)],
            "event_time_ms": begin_ms,
            "item_id": [f"item-{i}" for i in range(num_items)],
            "title": title,
            "text": title,
            "category": thing,
            "price": rng.integers(1, 40, num_items) / 2.0,
            "available": True,
            "attributes": "{}",
        }
    )
    users = pl.DataFrame(
        {
            "kind": "user",
            "event_id": [f"user-event-{u}" for u in range(num_users)],
            "event_time_ms": begin_ms,
            "user_id": [f"user-{u}" for u in range(num_users)],
            "attributes": [
                json.dumps({"country": ("fr", "de", "uk")[u % 3]}) for u in range(num_users)
            ],
        }
    )
    visits: list[tuple[int, str, str, float]] = []
    for user in range(num_users):
        taste = rng.choice(len(_THINGS), size=2, replace=False)
        for _ in range(int(rng.integers(2, 7))):
            moment = begin_ms + HOUR_MS + int(rng.integers(0, num_days * DAY_MS - 2 * HOUR_MS))
            liked = [
                i for i in range(num_items - 2)
                if i % len(_THINGS) in taste or rng.random() < 0.02
            ]  # fmt: skip
            for item in rng.choice(liked, size=min(4, len(liked)), replace=False).tolist():
                quantity = float(rng.choice([1, 2, 12]))
                visits.append((moment, f"user-{user}", f"item-{item}", quantity))
                moment += MINUTE_MS
    bought = pl.DataFrame(
        visits, schema=["event_time_ms", "user_id", "item_id", "value"], orient="row"
    ).sort("event_time_ms", "user_id", "item_id")
    purchases = bought.with_columns(
        pl.lit("interaction").alias("kind"),
        ("purchase-" + pl.int_range(pl.len()).cast(pl.String)).alias("event_id"),
        pl.lit("purchase").alias("type"),
    )
    return pl.concat([items, users, purchases], how="diagonal")


def make_debug_bundle(
    out_dir: Path, *, plan: Plan | None = None, seed: int = 7, state_dir: Path | None = None,
    ranker: RankerConfig | None = None, search: Search = "auto",
) -> Path:  # fmt: skip
    """Train on the made-up log and give the finished bundle's folder, ``out_dir/<bundle_id>``.

    Takes about two seconds, and five to ten more when the feature plan must be compiled: give one,
    or a ``state_dir`` that keeps it. No Ray and no server is involved. Add the folder to a store
    with ``BundleStore(bundle_dir).add(folder)``, or use ``out_dir`` as the bundle directory.
    """
    if plan is None:
        plan = current_plan.ensure(state_dir or out_dir / ".plan", project="recsys")
    source = Source(
        log=made_up_log(seed=seed), plan=plan, dataset="made_up", objectives=OBJECTIVES,
        views=("new_items_only", "repeats_allowed"), k=10, relevant_type="purchase",
        test_from_ms=None,
    )  # fmt: skip
    recipe = replace(debug(), seed=seed, search=search)
    if ranker is not None:
        recipe = replace(recipe, ranker_model=ranker)
    made = make_bundle(
        source, recipe, out_dir, world=World(), checkpoints=NoCheckpoints(),
        progress=Progress(quiet=True), now_ms=DEBUG_END_MS,
    )  # fmt: skip
    return made.folder
