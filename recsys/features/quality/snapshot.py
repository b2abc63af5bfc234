"""The features of all entities at one moment, from the event log: what is checked and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigurationError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.batch import Float32s, UserFeatures
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan, View
from recsys.features.quality.moments import spelt

_CHUNK = 4_000_000
"""Values of user x category finalised in one step: bounds memory to some 16 MB."""
_ACTED = ["interaction", "impression", "feedback"]


@dataclass(frozen=True, kw_only=True)
class ViewValues:
    """One view of ``N`` entities."""

    view: View
    entities: pl.DataFrame
    """``[N]`` a column for each join key."""
    values: dict[str, pl.Series]
    """By feature, ``[N]``; null where there is none."""
    newest_ms: pl.Series | None
    """``[N]`` time of the newest event; ``None`` for user x category, of which it is not kept."""

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def newest_event_ms(self) -> int | None:
        """Time of the newest event of all entities; ``None`` when there is or is kept none."""
        times = self.newest_ms
        return None if times is None or not len(times) else int(times.to_numpy().max())

    def entity(self, n: int) -> str:
        """Give a name for entity ``n``."""
        return "/".join(str(v) for v in self.entities.row(n))


def values_at(event_log_dir: Path, plan: Plan, moment_ms: int) -> list[ViewValues]:
    """Give every view of every entity that was known at ``moment_ms``.

    Of user x category, the pairs that have a value other than 0.

    Raises:
        ConfigurationError: when the event log has nothing by then.
    """
    topics = Topics(namespace=plan.project)
    frame = (
        event_log.scan(event_log_dir, [topics.items, topics.behaviour])
        .filter(pl.col("event_time_ms") <= moment_ms)
        .collect()
    )
    if frame.is_empty():
        raise ConfigurationError(
            f"wanted events of {plan.project} until {spelt(moment_ms)} in {event_log_dir}, found "
            "none; the stream worker writes them (`recsys up`), up to a minute late"
        )
    return sorted(_views(frame, plan, moment_ms), key=lambda v: v.view.name)


def _views(frame: pl.DataFrame, plan: Plan, moment_ms: int) -> Iterator[ViewValues]:
    rows = open_rows(frame, plan)
    categories = frame["category"].drop_nulls().unique().sort()
    vocabulary = Vocabulary(tuple(rows.item_ids), tuple(c for c in categories if c))
    users = UserHistory(rows, plan, vocabulary)
    user_ids = rows.user_ids.to_list()
    width = len(vocabulary.categories) * len(plan.user_category_activity_names)
    step = max(_CHUNK // max(width, 1), 1)
    parts: list[UserFeatures] = []
    pairs: list[tuple[pl.DataFrame, Float32s]] = []
    for begin in range(0, len(user_ids), step):
        some = user_ids[begin : begin + step]
        part = users.features_at(some, np.full(len(some), moment_ms, dtype=np.int64))
        user, category = np.nonzero((part.category_activity != 0).any(axis=2))
        keys = pl.DataFrame(
            {
                "category": [vocabulary.categories[g] for g in category.tolist()],
                "user_id": [some[u] for u in user.tolist()],
            },
            schema={"category": pl.String, "user_id": pl.String},
        )
        pairs.append((keys, part.category_activity[user, category]))
        parts.append(part)
    acted = frame.filter(pl.col("kind").is_in(_ACTED))
    shown = pl.when(pl.col("kind") == "impression").then("items")
    of_item = acted.select(
        shown.otherwise(pl.concat_list("item_id")).alias("item_id"), "event_time_ms"
    ).explode("item_id")
    if len(user_ids):
        view = plan.view(names.USER_ACTIVITY)
        matrix = np.concatenate([part.activity for part in parts])
        ids = pl.DataFrame({"user_id": rows.user_ids})
        yield _of_matrix(view, _with_newest(ids, acted, "user_id"), matrix)
        yield _history(plan.view(names.USER_HISTORY), ids, parts, vocabulary, frame)
        view = plan.view(names.USER_CATEGORY_ACTIVITY)
        yield ViewValues(
            view=view,
            entities=pl.concat([keys for keys, _ in pairs]).select(view.join_keys),
            values=_columns(view, np.concatenate([values for _, values in pairs])),
            newest_ms=None,
        )
    if len(rows.item_ids):
        activity = ItemHistory(rows, plan, vocabulary).activity_at(None, moment_ms).activity
        ids = pl.DataFrame({"item_id": rows.item_ids})
        newest = _with_newest(ids, of_item, "item_id")
        yield _of_matrix(plan.view(names.ITEM_ACTIVITY), newest, activity)
    yield _profile(plan.view(names.USER_PROFILE), frame.filter(pl.col("kind") == "user"))
    yield _profile(plan.view(names.ITEM_PROFILE), frame.filter(pl.col("kind") == "item"))


def _with_newest(ids: pl.DataFrame, events: pl.DataFrame, key: str) -> pl.DataFrame:
    newest = events.group_by(key).agg(newest_ms=pl.col("event_time_ms").max())
    return ids.join(newest, on=key, how="left", maintain_order="left")


def _of_matrix(view: View, entities: pl.DataFrame, matrix: Float32s) -> ViewValues:
    known = entities["newest_ms"].is_not_null()
    kept = entities.filter(known)
    return ViewValues(
        view=view,
        entities=kept.drop("newest_ms"),
        values=_columns(view, matrix[known.to_numpy()]),
        newest_ms=kept["newest_ms"],
    )


def _columns(view: View, matrix: Float32s) -> dict[str, pl.Series]:
    return {
        name: pl.Series(name, np.ascontiguousarray(matrix[:, f]))
        for f, name in enumerate(view.feature_names)
    }


def _history(
    view: View,
    ids: pl.DataFrame,
    parts: list[UserFeatures],
    vocabulary: Vocabulary,
    frame: pl.DataFrame,
) -> ViewValues:
    table = np.array(["", *vocabulary.item_ids], dtype=object)
    lists: dict[str, list[object]] = {"item_ids": [], "counts": [], "last_ms": []}
    for part in parts:
        for b in range(len(part)):
            lists["item_ids"].append(table[part.history_index.row(b)].tolist())
            lists["counts"].append(part.history_count.row(b).astype(np.int64).tolist())
            lists["last_ms"].append(part.history_last_ms.row(b).tolist())
    types = {"item_ids": pl.List(pl.String), "counts": pl.List(pl.Int64)}
    values = {
        name: pl.Series(name, column, dtype=types.get(name, pl.List(pl.Int64)))
        for name, column in lists.items()
        if name in view.feature_names
    }
    entities = _with_newest(ids, frame.filter(pl.col("kind") == "interaction"), "user_id")
    known = entities["newest_ms"].is_not_null()
    return ViewValues(
        view=view,
        entities=entities.filter(known).drop("newest_ms"),
        values={name: column.filter(known) for name, column in values.items()},
        newest_ms=entities.filter(known)["newest_ms"],
    )


def _profile(view: View, events: pl.DataFrame) -> ViewValues:
    """Give what the newest user or item event of each says."""
    (key,) = view.join_keys
    newest = events.sort("event_time_ms", "offset").unique(key, keep="last").sort(key)
    values: dict[str, pl.Series] = {}
    for name in view.feature_names:
        if name == "tokens":
            tokens = [_tokens(text) for text in newest["attributes"]]
            values[name] = pl.Series(name, tokens, dtype=pl.List(pl.String))
        elif name == "born_ms":
            values[name] = newest["born_ms"].fill_null(newest["event_time_ms"])
        else:
            values[name] = newest[name]
    return ViewValues(
        view=view, entities=newest.select(key), values=values, newest_ms=newest["event_time_ms"]
    )


def _tokens(text: str | None) -> list[str]:
    return names.tokens_of(msgspec.json.decode(text)) if text else []
