"""``recsys features show user 42``: what the online store says of one user or item, and why.

Prints every view with its status, its age and the log positions it was told, for each aggregate the
events its value is made of, and the newest events of the event log that lie in the longest window.
With ``--at TIME`` windows are finalised at that moment and compared with the same moment recomputed
from the event log. Exit code 1 when nothing is known or the two differ, 2 when it cannot be said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from recsys.data.vocabulary import Vocabulary
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events.topics import Topics
from recsys.features import current_plan, names
from recsys.features.framing import unframe
from recsys.features.history import ItemHistory, UserHistory
from recsys.features.key_layout import EntityKeys
from recsys.features.online import OnlineReader
from recsys.features.plan import Plan
from recsys.features.positions import next_offsets
from recsys.features.quality.moments import parse_moment
from recsys.features.redis_hashes import RedisHashes
from recsys.features.show_events import log_of, made_of, newest_events
from recsys.features.show_text import Shown, as_json, print_all
from recsys.features.time_layout import decode_timestamp
from recsys.features.value_layout import decode_value
from recsys.features.view_record import Status
from recsys.settings import Settings


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
    parser.add_argument("--full", action="store_true", help="print lists whole")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        moment_ms = parse_moment(options.at or "now")
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
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
        shown += show_others(plan, redis_url, options.kind, options.id, moment_ms)
        shown = explained(shown, plan, redis_url, log, options.id, moment_ms)
        if options.at:
            shown = [_compared(view, recomputed) for view in shown]
        events = newest_events(log, plan, options.kind, options.id, moment_ms, options.events)
    except RecsysError as error:
        sys.stderr.write(f"recsys features show: {error}\n")
        return 2
    if options.json:
        document = {"at_ms": moment_ms, "views": [as_json(s) for s in shown], "events": events}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        print_all(shown, events, moment_ms, full=options.full)
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
        wanted = [profile.timestamp_field, activity.state_field, *fields]
        ((said, state, *raw),) = hashes.read(
            [(EntityKeys(profile, plan.project).of(item_id), wanted)]
        )
    finally:
        reader.close()
        hashes.close()
    says = {
        f.name: decode_value(data, f.type) for f, data in zip(profile.features, raw, strict=True)
    }
    moved = dict(zip(activity.feature_names, values, strict=True))
    said_ms = None if said is None else decode_timestamp(said)
    return [
        _of_age(profile.name, said_ms, profile.ttl_ms, says, moment_ms),
        _of_age(activity.name, _newest_ms(state), activity.ttl_ms, moved, moment_ms),
    ]


def _newest_ms(state: bytes | None) -> int | None:
    return None if state is None else int(unframe([state]).newest_ms[0])


def _of_age(
    name: str, at_ms: int | None, ttl_ms: int, values: dict[str, Any], moment_ms: int
) -> Shown:
    if at_ms is None:
        return Shown(name, Status.MISSING, None, {}, {})
    age_ms = moment_ms - at_ms
    if ttl_ms and age_ms > ttl_ms:
        return Shown(name, Status.EXPIRED, age_ms, {}, {})
    return Shown(name, Status.PRESENT, age_ms, values, {})


def show_others(plan: Plan, redis_url: str, kind: str, id_: str, moment_ms: int) -> list[Shown]:
    """Give the views of aggregates that are declared beside the usual ones, keyed by it alone.

    Raises:
        ServerError: when Redis does not answer.
    """
    key = f"{kind}_id"
    usual = (names.USER_ACTIVITY, names.ITEM_ACTIVITY)
    views = [
        v for v in plan.views if v.aggregates and v.join_keys == (key,) and v.name not in usual
    ]
    shown = []
    reader, hashes = OnlineReader(plan, redis_url), RedisHashes(redis_url)
    try:
        for view in views:
            found = reader.read_view(view.name, {key: [id_]}, now_ms=moment_ms)
            ((state,),) = hashes.read(
                [(EntityKeys(view, plan.project).of(id_), [view.state_field])]
            )
            values: dict[str, Any] = dict(zip(found.names, found.values[0].tolist(), strict=True))
            values |= {name: ragged.row(0).tolist() for name, ragged in found.lists.items()}
            newest = _newest_ms(state)
            shown.append(_of_age(view.name, newest, view.ttl_ms, values, moment_ms))
    finally:
        reader.close()
        hashes.close()
    return shown


def explained(
    shown: Sequence[Shown], plan: Plan, redis_url: str, log: pl.DataFrame, id_: str, moment_ms: int
) -> list[Shown]:
    """Add the log positions of each view's state, and the events its values are made of.

    Raises:
        ServerError: when Redis does not answer.
    """
    topics = Topics(namespace=plan.project)
    wanted = []
    for one in shown:
        name, _, category = one.name.partition("/")
        view = plan.view(name)
        ids = (category, id_) if view.join_keys == ("category", "user_id") else (id_,)
        wanted.append((EntityKeys(view, plan.project).of(*ids), [view.state_field]))
    hashes = RedisHashes(redis_url)
    try:
        states = [row[0] for row in hashes.read(wanted)]
    finally:
        hashes.close()
    more = []
    for one, positions in zip(shown, unframe(states).positions, strict=True):
        told = {
            f"{topic}[{partition}]": offset - 1
            for (topic, partition), offset in sorted(next_offsets(positions, topics).items())
        }
        view = plan.view(one.name.partition("/")[0])
        events: dict[str, dict[str, Any]] = {}
        if one.status is Status.PRESENT and view.aggregates and len(view.join_keys) == 1:
            events = made_of(log, view, view.join_keys[0], id_, moment_ms)
        more.append(one._replace(told=told, made_of=events))
    return more


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


if __name__ == "__main__":
    sys.exit(main())
