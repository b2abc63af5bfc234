"""The features of all entities at one moment, from the event log: what is checked and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigurationError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.events.tracers import without_tracers
from recsys.features import names
from recsys.features.batch import Float32s, Ragged
from recsys.features.event_times import with_times
from recsys.features.history import UserHistory, open_rows
from recsys.features.log_rows import LogRows
from recsys.features.plan import Plan
from recsys.features.quality.moments import spelt
from recsys.features.view import View
from recsys.features.view_history import EveryEntity, ViewHistory

_CHUNK = 20_000
"""Users whose recent items are looked up in one step."""


@dataclass(frozen=True, kw_only=True)
class ViewValues:
    """One view of ``N`` entities."""

    view: View
    entities: pl.DataFrame
    """``[N]`` a column for each join key."""
    values: dict[str, pl.Series]
    """By feature, ``[N]``; null where there is none."""
    newest_ms: pl.Series
    """``[N]`` time of the newest event."""

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def newest_event_ms(self) -> int | None:
        """Time of the newest event of all entities; ``None`` when there is none."""
        return int(self.newest_ms.to_numpy().max()) if len(self) else None

    def entity(self, n: int) -> str:
        """Give a name for entity ``n``."""
        return "/".join(str(v) for v in self.entities.row(n))


def values_at(event_log_dir: Path, plan: Plan, moment_ms: int) -> list[ViewValues]:
    """Give every streamed view of every entity that was known at ``moment_ms``, by name.

    An entity past the TTL of its view is there, with zeros.

    Raises:
        ConfigurationError: when the event log has nothing by then.
    """
    topics = Topics(namespace=plan.project)
    frame = (
        with_times(event_log.scan(event_log_dir, [topics.items, topics.behaviour]))
        .filter(pl.col("effective_ms") <= moment_ms)
        .collect()
    )
    frame = without_tracers(frame)
    if frame.is_empty():
        raise ConfigurationError(
            f"wanted events of {plan.project} until {spelt(moment_ms)} in {event_log_dir}, found "
            "none; the stream worker writes them (`recsys up`), up to a minute late"
        )
    return values_of(frame, plan, moment_ms)


def values_of(log: pl.DataFrame, plan: Plan, moment_ms: int) -> list[ViewValues]:
    """Give the same of rows of the event log that were read before."""
    frame = with_times(log).filter(pl.col("effective_ms") <= moment_ms)
    return sorted(_views(frame, plan, moment_ms), key=lambda v: v.view.name)


def _views(frame: pl.DataFrame, plan: Plan, moment_ms: int) -> Iterator[ViewValues]:
    rows = open_rows(frame, plan)
    for view in plan.views:
        if view.aggregates:
            yield _aggregates(view, ViewHistory(rows, view).everyone_at(moment_ms))
        elif view.name == names.USER_HISTORY:
            yield _history(view, rows, plan, moment_ms)
        elif view.name in (names.USER_PROFILE, names.ITEM_PROFILE):
            kind = "user" if view.name == names.USER_PROFILE else "item"
            yield _profile(view, frame.filter(pl.col("kind") == kind))


def _aggregates(view: View, found: EveryEntity) -> ViewValues:
    return ViewValues(
        view=view,
        entities=found.keys,
        values=columns_of(view, found.values, found.lists),
        newest_ms=pl.Series(found.newest_ms, dtype=pl.Int64),
    )


def columns_of(view: View, values: Float32s, lists: Mapping[str, Ragged]) -> dict[str, pl.Series]:
    """Give the features of a view of aggregates as columns, lists of identities as text."""
    columns: dict[str, pl.Series] = {}
    for f, aggregate in enumerate(view.scalar_aggregates):
        columns[aggregate.name] = pl.Series(np.ascontiguousarray(values[:, f]))
    for aggregate in view.list_aggregates:
        ragged = lists[aggregate.name]
        rows = [ragged.row(n).tolist() for n in range(len(ragged))]
        column = pl.Series(rows, dtype=pl.List(pl.Int64 if aggregate.field else pl.Float32))
        if aggregate.field:  # a hash is a name, no amount
            column = column.cast(pl.List(pl.String))
        columns[aggregate.name] = column
    return {name: columns[name].alias(name) for name in view.feature_names if name in columns}


def _history(view: View, rows: LogRows, plan: Plan, moment_ms: int) -> ViewValues:
    users = UserHistory(rows, plan, Vocabulary(tuple(rows.item_ids), ()))
    user_ids = rows.user_ids.to_list()
    table = np.array(["", *rows.item_ids], dtype=object)
    lists: dict[str, list[object]] = {"item_ids": [], "counts": [], "last_ms": []}
    newest: list[int] = []
    for begin in range(0, len(user_ids), _CHUNK):
        some = user_ids[begin : begin + _CHUNK]
        moments = np.full(len(some), moment_ms, dtype=np.int64)
        part = users.features_at(some, moments)
        newest += users.last_interaction_ms(some, moments).tolist()
        for b in range(len(part)):
            lists["item_ids"].append(table[part.history_index.row(b)].tolist())
            lists["counts"].append(part.history_count.row(b).astype(np.int64).tolist())
            lists["last_ms"].append(part.history_last_ms.row(b).tolist())
    times = pl.Series(newest, dtype=pl.Int64)
    known = times >= 0
    types = {"item_ids": pl.List(pl.String)}
    values = {
        name: pl.Series(name, column, dtype=types.get(name, pl.List(pl.Int64))).filter(known)
        for name, column in lists.items()
        if name in view.feature_names
    }
    return ViewValues(
        view=view,
        entities=pl.DataFrame({"user_id": rows.user_ids}).filter(known),
        values=values,
        newest_ms=times.filter(known),
    )


def _profile(view: View, events: pl.DataFrame) -> ViewValues:
    """Give what the newest user or item event of each says."""
    (key,) = view.join_keys
    newest = events.sort("effective_ms", "offset").unique(key, keep="last").sort(key)
    values: dict[str, pl.Series] = {}
    for name in view.feature_names:
        if name == "tokens":
            tokens = [_tokens(text) for text in newest["attributes"]]
            values[name] = pl.Series(name, tokens, dtype=pl.List(pl.String))
        elif name == "born_ms":
            values[name] = newest["born_ms"].fill_null(newest["effective_ms"])
        else:
            values[name] = newest[name]
    return ViewValues(
        view=view, entities=newest.select(key), values=values, newest_ms=newest["effective_ms"]
    )


def _tokens(text: str | None) -> list[str]:
    return names.tokens_of(msgspec.json.decode(text)) if text else []
