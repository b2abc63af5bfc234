"""``recsys features show user 42``: what the online store says of one user or item, and why.

Prints every view with its status and age, and the newest events of the event log that lie in the
longest window. With ``--at TIME`` windows are finalised at that moment and compared with the same
moment recomputed from the event log. Exit code 1 when nothing is known or the two differ, 2 when
it cannot be said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from recsys.data.vocabulary import Vocabulary
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features import plan as plans
from recsys.features.history import ItemHistory, UserHistory
from recsys.features.layout import EntityKeys, decode_timestamp, decode_value
from recsys.features.online import OnlineReader, Status
from recsys.features.plan import Plan
from recsys.features.quality.moments import age, parse_moment, spelt
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings


class Shown(NamedTuple):
    """One view of the entity; ``name`` ends in ``/category`` for user x category."""

    name: str
    status: Status
    age_ms: int | None
    values: dict[str, Any]
    recomputed: dict[str, Any]
    """What the event log gives where it differs; empty without ``--at``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Show; 0 when known (and equal), 1 when unknown or different, 2 when it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="recsys features show",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["user", "item"])
    parser.add_argument("id")
    parser.add_argument("--category", help="of user x category this one only")
    parser.add_argument("--at", metavar="TIME", help="finalise and recompute at this moment")
    parser.add_argument("--events", type=int, default=10, metavar="N", help="newest events shown")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        moment_ms = parse_moment(options.at or "now")
        plan = plans.ensure(settings.state_dir, project=settings.namespace)
        redis_url = resolve(settings).require_redis()
        log = log_of(settings.event_log_dir, plan, options.kind, options.id, moment_ms)
        categories = sorted({c for c in log["category"].drop_nulls() if c})
        if options.category is not None:
            categories = [options.category]
        if options.kind == "user":
            shown = show_user(plan, redis_url, options.id, categories, moment_ms)
            recomputed = _users_again(plan, log, options.id, categories, moment_ms)
        else:
            shown = show_item(plan, redis_url, options.id, moment_ms)
            recomputed = _items_again(plan, log, options.id, moment_ms)
        if options.at:
            shown = [_compared(view, recomputed) for view in shown]
        events = newest_events(log, plan, options.kind, options.id, moment_ms, options.events)
    except RecsysError as error:
        sys.stderr.write(f"recsys features show: {error}\n")
        return 2
    if options.json:
        document = {"at_ms": moment_ms, "views": [s._asdict() for s in shown], "events": events}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        _print(shown, events)
    known = any(view.status is not Status.MISSING for view in shown)
    if not known:
        sys.stderr.write(
            f'recsys features show: wanted features of {options.kind} "{options.id}" in project '
            f'"{plan.project}", found none; see `recsys lag` and `recsys status`\n'
        )
    return 0 if known and not any(view.recomputed for view in shown) else 1


def show_user(
    plan: Plan, redis_url: str, user_id: str, categories: Sequence[str], moment_ms: int
) -> list[Shown]:
    """Give the views of a user, finalised at a moment.

    Raises:
        ServerError: when Redis does not answer.
    """
    reader = OnlineReader(plan, redis_url)
    try:
        vocabulary = Vocabulary((), tuple(categories))
        records = reader.read_profile(user_id, vocabulary=vocabulary, now_ms=moment_ms)
    finally:
        reader.close()
    return [Shown(n, r.status, r.age_ms, r.values, {}) for n, r in records.items()]


def show_item(plan: Plan, redis_url: str, item_id: str, moment_ms: int) -> list[Shown]:
    """Give the views of an item, windows finalised at a moment.

    Raises:
        ServerError: when Redis does not answer.
    """
    profile, activity = plan.view(names.ITEM_PROFILE), plan.view(names.ITEM_ACTIVITY)
    reader, hashes = OnlineReader(plan, redis_url), RedisHashes(redis_url)
    try:
        values = reader.read_items([item_id], now_ms=moment_ms).activity[0].tolist()
        fields = [f.field_bytes for f in profile.features]
        wanted = [profile.timestamp_field, activity.timestamp_field, *fields]
        ((said, acted, *raw),) = hashes.read(
            [(EntityKeys(profile, plan.project).of(item_id), wanted)]
        )
    finally:
        reader.close()
        hashes.close()
    says = {
        f.name: decode_value(data, f.type) for f, data in zip(profile.features, raw, strict=True)
    }
    moved = dict(zip(activity.feature_names, values, strict=True))
    return [
        _of_time(profile.name, said, profile.ttl_ms, says, moment_ms),
        _of_time(activity.name, acted, activity.ttl_ms, moved, moment_ms),
    ]


def _of_time(
    name: str, timestamp: bytes | None, ttl_ms: int, values: dict[str, Any], moment_ms: int
) -> Shown:
    if timestamp is None:
        return Shown(name, Status.MISSING, None, {}, {})
    age_ms = moment_ms - decode_timestamp(timestamp)
    if ttl_ms and age_ms > ttl_ms:
        return Shown(name, Status.EXPIRED, age_ms, {}, {})
    return Shown(name, Status.PRESENT, age_ms, values, {})


def log_of(event_log_dir: Path, plan: Plan, kind: str, id_: str, moment_ms: int) -> pl.DataFrame:
    """Give an entity's events until a moment, and those of the items a user met."""
    topics = Topics(namespace=plan.project)
    scan = event_log.scan(event_log_dir, [topics.items, topics.behaviour], end_ms=moment_ms + 1)
    if kind == "item":
        return scan.filter(
            (pl.col("item_id") == id_) | pl.col("items").list.contains(id_)
        ).collect()
    mine = scan.filter(pl.col("user_id") == id_).collect()
    met = pl.concat([mine["item_id"], mine["items"].explode()]).drop_nulls().unique()
    items = scan.filter((pl.col("kind") == "item") & pl.col("item_id").is_in(met.implode()))
    return pl.concat([items.collect(), mine])


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
            "topic", "partition", "offset", "effective_time_ms", "kind", "type", "item_id", "value"
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


def _users_again(
    plan: Plan, log: pl.DataFrame, user_id: str, categories: Sequence[str], moment_ms: int
) -> dict[str, dict[str, Any]]:
    items = log["item_id"].drop_nulls().unique().sort()
    shown = log["items"].explode().drop_nulls().unique()
    vocabulary = Vocabulary(tuple(pl.concat([items, shown]).unique().sort()), tuple(categories))
    moment = np.array([moment_ms], dtype=np.int64)
    features = UserHistory(log, plan, vocabulary).features_at([user_id], moment)
    found = {
        names.USER_ACTIVITY: dict(
            zip(plan.user_activity_names, features.activity[0].tolist(), strict=True)
        ),
        names.USER_HISTORY: {
            "item_ids": vocabulary.ids(features.history_index.row(0).tolist()),
            "counts": features.history_count.row(0).astype(np.int64).tolist(),
            "last_ms": features.history_last_ms.row(0).tolist(),
        },
    }
    for column, category in enumerate(categories):
        values = features.category_activity[0, column].tolist()
        found[f"{names.USER_CATEGORY_ACTIVITY}/{category}"] = dict(
            zip(plan.user_category_activity_names, values, strict=True)
        )
    return found


def _items_again(
    plan: Plan, log: pl.DataFrame, item_id: str, moment_ms: int
) -> dict[str, dict[str, Any]]:
    history = ItemHistory(log, plan, Vocabulary((item_id,), ()))
    values = history.activity_at([item_id], moment_ms).activity[0].tolist()
    return {names.ITEM_ACTIVITY: dict(zip(plan.item_activity_names, values, strict=True))}


def _compared(view: Shown, recomputed: dict[str, dict[str, Any]]) -> Shown:
    again = recomputed.get(view.name, {})
    differs = {n: v for n, v in again.items() if n in view.values and view.values[n] != v}
    if view.status is Status.MISSING:
        differs = {name: value for name, value in again.items() if value}
    return view._replace(recomputed=differs)


def _print(shown: Sequence[Shown], events: Sequence[dict[str, Any]]) -> None:
    console = Console()
    for view in shown:
        old = "" if view.age_ms is None else f", newest event {age(view.age_ms)} ago"
        console.print(f"[bold]{view.name}[/]: {view.status.value.upper()}{old}")
        for name in view.values | view.recomputed:
            line = f"  {name:<24}{view.values.get(name)}"
            if name in view.recomputed:
                line += f"   the event log says {view.recomputed[name]}"
            console.print(line, markup=False, highlight=False)
    table = Table(title="newest events of the event log")
    for name in ("effective time", "kind", "type", "item", "value", "windows", "in the log"):
        table.add_column(name)
    for e in events:
        at = f"{e['topic']}[{e['partition']}] {e['offset']}"
        cells = (spelt(e["effective_time_ms"]), e["kind"], e["type"], e["item_id"], e["value"])
        table.add_row(*("" if c is None else str(c) for c in (*cells, e["in_windows"], at)))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
