"""The event log as columns: what training and backfill compute features from.

A frame of the log has one row for each event with the fields of ``events/schema.py`` as columns
(``kind`` tells them apart), in log order within a partition. ``topic``, ``partition`` and
``offset`` are used when they are there, and so is ``ingest_time_ms``: an event counts at its
effective time (``event_times.py``). The same event id twice counts once: the first in the log
(within the horizon of ``duplicates.py``, as in the stream, where offsets are known).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import polars as pl

from recsys.features.batch import Int64s, Ragged
from recsys.features.categories import Timelines
from recsys.features.duplicates import HORIZON
from recsys.features.event_rows import KINDS, NO_CATEGORY, Rows, units_of
from recsys.features.event_times import with_times
from recsys.features.forgotten import without_forgotten
from recsys.features.names import identity_hashes, token_hashes, tokens_of
from recsys.features.view import View

_DEFAULTS: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "event_id": pl.String(),
    "event_time_ms": pl.Int64(),
    "ingest_time_ms": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "type": pl.String(),
    "value": pl.Float64(),
    "items": pl.List(pl.String()),
    "category": pl.String(),
    "attributes": pl.String(),
}
NEVER_MS = np.iinfo(np.int64).max


@dataclass(frozen=True)
class LogRows:
    """Behaviour as columns: one row for each (event, item), an impression exploded."""

    user_ids: pl.Series
    """Distinct, sorted: the codes of ``user``."""
    item_ids: pl.Series
    """Distinct, sorted: the codes of ``item``; those of behaviour and of item events."""
    user: Int64s
    item: Int64s
    rows: Rows
    """Effective times, units, kinds and types; ``owner`` is ``user``."""
    known_ms: Int64s
    """When the log received each row."""
    item_category: CategoryTimeline
    user_first_ms: Int64s
    """Per user code: the first event of any kind."""
    item_first_ms: Int64s
    profiles: Timeline
    """User events: when each user said what."""
    profile_tokens: Ragged
    """Token hashes of each entry of ``profiles``."""

    @cached_property
    def item_hash(self) -> Int64s:
        """Hash of each item code."""
        return identity_hashes(self.item_ids)

    @cached_property
    def _category_hash(self) -> Int64s:
        """Hash of the category of each row, ``NO_CATEGORY`` where there is none."""
        categories = self.item_category.category.unique().sort()
        place = self.item_category.at(
            self.item, self.rows.time_ms, self.known_ms, categories.to_list()
        )
        return np.append(identity_hashes(categories), NO_CATEGORY)[place]

    def rows_for(self, view: View) -> Rows:
        """Give ``rows`` with the hashes that ``view`` counts or lists, if any."""
        return replace(
            self.rows,
            item=self.item_hash[self.item] if "item_id" in view.identity_fields else None,
            category=self._category_hash if "category" in view.identity_fields else None,
        )

    def user_codes(self, user_ids: Sequence[str]) -> Int64s:
        """Give the codes of ``user_ids``; -1 for a user the log does not know."""
        return codes_of(self.user_ids, user_ids)

    def item_codes(self, item_ids: Sequence[str]) -> Int64s:
        """Give the codes of ``item_ids``; -1 for an item the log does not know."""
        return codes_of(self.item_ids, item_ids)


@dataclass(frozen=True)
class Timeline:
    """Versions of a thing over time, sorted by ``(owner, time, log position)``."""

    owner: Int64s
    time_ms: Int64s
    num_owners: int

    @cached_property
    def _starts(self) -> Int64s:
        return np.searchsorted(self.owner, np.arange(self.num_owners + 1))

    def latest(self, owner: Int64s, t: Int64s) -> Int64s:
        """Give the place of the version in force at ``t``; -1 when there is none yet."""
        if not len(self.owner):
            return np.full(len(owner), -1, dtype=np.int64)
        low = int(self.time_ms.min())
        span = int(self.time_ms.max()) - low + 2
        keys = self.owner * span + (self.time_ms - low + 1)
        wanted = owner * span + np.clip(t - low + 1, 0, span - 1)
        place = np.searchsorted(keys, wanted, side="right") - 1
        return np.where((owner >= 0) & (place >= self._starts[np.maximum(owner, 0)]), place, -1)


@dataclass(frozen=True)
class CategoryTimeline:
    """Which category an item was in when, and from when on that was known."""

    timelines: Timelines
    category: pl.Series
    """Of each entry, ``""`` for none."""

    def at(self, item: Int64s, t: Int64s, known: Int64s, categories: Sequence[str]) -> Int64s:
        """Give the place in ``categories`` of each item's category; -1 for none.

        At ``t``, as far as was known before ``known`` (``categories.py``).
        """
        place = self.timelines.at(item, t, known)
        column = {category: column for column, category in enumerate(categories) if category}
        columns = np.array([column.get(c, -1) for c in self.category] + [-1], dtype=np.int64)
        return columns[place]  # -1 takes the appended one


def codes_of(distinct: pl.Series, ids: Sequence[str] | pl.Series) -> Int64s:
    """Give the place of each id in a sorted distinct series; -1 when it is absent."""
    if not len(distinct) or not len(ids):
        return np.full(len(ids), -1, dtype=np.int64)
    wanted = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)})
    table = pl.DataFrame({"id": distinct}).with_row_index("code")
    joined = wanted.join(table, on="id", how="left", maintain_order="left")
    return joined["code"].cast(pl.Int64).fill_null(-1).to_numpy().copy()


def without_duplicates(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave out events seen before, and sort by log position where the frame has one.

    With positions the rule is that of ``duplicates.py``; without, an id counts once. Item events
    and ``forget`` records all stay: the same item twice changes nothing, and who is forgotten
    again was there again.
    """
    order = ["topic", "partition", "offset"]
    if not set(order) <= set(frame.columns):
        return frame.unique("event_id", keep="first", maintain_order=True)
    frame = frame.sort(order)
    if frame["event_id"].n_unique() == len(frame):
        return frame
    # Of those there are more of only: a window over all of them takes ten times as long.
    places = frame["event_id"].is_duplicated().arg_true()
    some = frame[places].select(*order, "event_id", "kind")
    before = pl.col("offset").shift(1).over("topic", "partition", "event_id")
    again = (pl.col("offset") - before <= HORIZON).fill_null(False)
    gone = places.filter(some.select(again & ~pl.col("kind").is_in(["item", "forget"])).to_series())
    kept = np.ones(len(frame), dtype=np.bool_)
    kept[gone.to_numpy()] = False
    return frame.filter(kept)


def read_rows(log: pl.DataFrame | pl.LazyFrame) -> LogRows:
    """Turn frames of the log into columns, duplicates removed."""
    lazy = log.lazy()
    present = set(lazy.collect_schema().names())
    wanted = [
        (pl.col(name).cast(dtype) if name in present else pl.lit(None, dtype=dtype)).alias(name)
        for name, dtype in _DEFAULTS.items()
    ]
    order = [name for name in ("topic", "partition", "offset") if name in present]
    frame = lazy.select(*wanted, *order).collect()
    frame = with_times(without_forgotten(without_duplicates(frame)))

    behaviour = _behaviour(frame)
    items = frame.filter(pl.col("kind") == "item").select(
        "item_id", "effective_ms", "known_ms", pl.col("category").fill_null("")
    )
    users = frame.filter(pl.col("kind") == "user").select("user_id", "effective_ms", "attributes")

    user_ids = pl.concat([behaviour["user_id"], users["user_id"]]).unique().sort()
    item_ids = pl.concat([behaviour["item_id"], items["item_id"]]).unique().sort()
    types = behaviour["type"].unique().sort()
    user = codes_of(user_ids, behaviour["user_id"])
    item = codes_of(item_ids, behaviour["item_id"])
    time_ms = behaviour["effective_ms"].to_numpy().astype(np.int64)
    rows = Rows(
        owner=user,
        time_ms=time_ms,
        units=units_of(behaviour["value"].to_numpy()),
        kind=behaviour["kind"]
        .replace_strict({kind: n for n, kind in enumerate(KINDS)}, return_dtype=pl.UInt8)
        .to_numpy(),
        event_type=codes_of(types, behaviour["type"]),
        types=types.to_list(),
    )

    item_of_event = codes_of(item_ids, items["item_id"])
    item_time = items["effective_ms"].to_numpy().astype(np.int64)
    item_known = items["known_ms"].to_numpy().astype(np.int64)
    names = np.argsort(items["category"].arg_sort().to_numpy())  # as Python orders strings
    item_order = np.lexsort((names, item_known, item_time, item_of_event))
    user_of_event = codes_of(user_ids, users["user_id"])
    user_time = users["effective_ms"].to_numpy().astype(np.int64)
    user_order = np.lexsort((np.arange(len(user_time)), user_time, user_of_event))
    return LogRows(
        user_ids=user_ids,
        item_ids=item_ids,
        user=user,
        item=item,
        rows=rows,
        known_ms=behaviour["known_ms"].to_numpy().astype(np.int64),
        item_category=CategoryTimeline(
            Timelines(
                item_of_event[item_order],
                item_time[item_order],
                item_known[item_order],
                len(item_ids),
            ),
            items["category"][item_order],
        ),
        user_first_ms=_first_ms(len(user_ids), (user, time_ms), (user_of_event, user_time)),
        item_first_ms=_first_ms(len(item_ids), (item, time_ms), (item_of_event, item_time)),
        profiles=Timeline(user_of_event[user_order], user_time[user_order], len(user_ids)),
        profile_tokens=_tokens(users["attributes"][user_order]),
    )


def _behaviour(frame: pl.DataFrame) -> pl.DataFrame:
    """Give a row for each act, and one for each item that was shown."""
    acted = frame.filter(pl.col("kind").is_in(["interaction", "feedback"])).select(
        "user_id", "item_id", "effective_ms", "known_ms", "kind", "type", "value"
    )
    shown = (
        frame.filter(pl.col("kind") == "impression")
        .select(
            "user_id",
            pl.col("items").alias("item_id"),
            "effective_ms",
            "known_ms",
            "kind",
            pl.lit("").alias("type"),
            pl.lit(1.0).alias("value"),
        )
        .explode("item_id")
    )
    return pl.concat([acted, shown]).with_columns(
        pl.col("type").fill_null(""), pl.col("value").fill_null(1.0)
    )


def _first_ms(num_owners: int, *events: tuple[Int64s, Int64s]) -> Int64s:
    first = np.full(num_owners, NEVER_MS, dtype=np.int64)
    for owner, time_ms in events:
        np.minimum.at(first, owner, time_ms)
    return first


def _tokens(attributes: pl.Series) -> Ragged:
    rows = [
        token_hashes(tokens_of(msgspec.json.decode(text))) if text else np.empty(0, np.int64)
        for text in attributes
    ]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return Ragged(values, offsets)
