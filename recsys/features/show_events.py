"""The events of one user or item, and which of them its features are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.event_times import with_times
from recsys.features.forgotten import without_forgotten
from recsys.features.log_rows import without_duplicates
from recsys.features.plan import Plan
from recsys.features.view import View


def log_of(event_log_dir: Path, plan: Plan, kind: str, id_: str, moment_ms: int) -> pl.DataFrame:
    """Give an entity's events until a moment, and those of the items a user met."""
    topics = Topics(namespace=plan.project)
    scan = event_log.scan(event_log_dir, [topics.items, topics.behaviour], end_ms=moment_ms + 1)
    if kind == "item":
        its = (pl.col("item_id") == id_) | pl.col("items").list.contains(id_)
        return _counted(scan.filter(its | (pl.col("kind") == "forget")).collect())
    mine = _counted(scan.filter(pl.col("user_id") == id_).collect())
    met = pl.concat([mine["item_id"], mine["items"].explode()]).drop_nulls().unique()
    items = scan.filter((pl.col("kind") == "item") & pl.col("item_id").is_in(met.implode()))
    return pl.concat([_counted(items.collect()), mine])


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave out what features leave out: repeated events, and those of users forgotten since."""
    return without_forgotten(without_duplicates(rows))


def made_of(
    log: pl.DataFrame, view: View, key: str, id_: str, moment_ms: int
) -> dict[str, dict[str, Any]]:
    """Say of each aggregate of a view keyed by ``key`` alone which events its value is made of.

    By feature: ``num_events``, and of the newest ``newest_ms``, ``topic``, ``partition``,
    ``offset``. An aggregate whose window is empty is left out.
    """
    own = log.filter(pl.col("user_id") == id_) if key == "user_id" else log
    own = with_times(own).filter(pl.col("effective_ms") <= moment_ms)
    found: dict[str, dict[str, Any]] = {}
    for aggregate in view.aggregates:
        if aggregate.call.name == "ratio":
            continue
        start_ms = _start(moment_ms, aggregate.slide_ms, aggregate.window_ms)
        inside = (pl.col("kind") == aggregate.kind) & (pl.col("effective_ms") >= start_ms)
        if aggregate.event_type is not None:
            inside &= pl.col("type") == aggregate.event_type
        events = own.filter(inside)
        if events.is_empty():
            continue
        (newest,) = (
            events.sort("effective_ms", "topic", "offset").tail(1)
            .select("topic", "partition", "offset", newest_ms="effective_ms").to_dicts()
        )  # fmt: skip
        found[aggregate.name] = {"num_events": len(events), **newest}
    return found


def newest_events(
    log: pl.DataFrame, plan: Plan, kind: str, id_: str, moment_ms: int, num: int
) -> list[dict[str, Any]]:
    """Give the newest events of the entity in its longest window, with where they lie in the log.

    ``in_windows`` counts the aggregates of the entity's own view whose window spans the event.
    """
    view = plan.view(names.USER_ACTIVITY if kind == "user" else names.ITEM_ACTIVITY)
    longest = max((a.window_ms for a in view.aggregates), default=0)
    time = pl.min_horizontal("event_time_ms", "ingest_time_ms")
    own = log.filter(pl.col("user_id") == id_) if kind == "user" else log
    rows = (
        own.with_columns(effective_time_ms=time)
        .filter((pl.col("kind").is_in(["user", "item"])) | (time > moment_ms - longest))
        .sort("effective_time_ms", "offset", descending=True)
        .head(num)
        .select(
            "topic",
            "partition",
            "offset",
            "effective_time_ms",
            "kind",
            "type",
            "item_id",
            "value",
            num_items=pl.col("items").list.len(),
        )
    )
    events = rows.to_dicts()
    for event in events:
        event["in_windows"] = sum(
            a.kind == event["kind"]
            and a.event_type in (None, event["type"])
            and event["effective_time_ms"] >= _start(moment_ms, a.slide_ms, a.window_ms)
            for a in view.aggregates
        )
    return events


def _start(moment_ms: int, slide_ms: int, window_ms: int) -> int:
    return moment_ms // slide_ms * slide_ms - window_ms + slide_ms
