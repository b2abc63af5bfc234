"""What the log says of users and items in words: the attributes that segments are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from recsys.evaluation.segments import Grouping, by_value

MAX_ATTRIBUTES = 12
"""Attributes looked at, by name: a page with more is not read."""


def groupings_of(
    log: pl.DataFrame, *, kind: str, ids: Sequence[str], until_ms: int
) -> list[Grouping]:
    """Give a grouping of ``ids`` by each attribute of their latest event before ``until_ms``.

    Args:
        log: The event log; ``attributes`` are JSON objects.
        kind: ``"user"`` or ``"item"``; the key column is ``{kind}_id``.
        ids: Users or items, in the order wanted; unknown ones belong to no group.
        until_ms: What is said from then on is not looked at.

    Numbers are no groups, and neither is a list; attributes whose values hardly ever come twice are
    left out (``by_value``).
    """
    key = f"{kind}_id"
    if "attributes" not in log.columns or key not in log.columns:
        return []
    said = (
        log.filter((pl.col("kind") == kind) & (pl.col("event_time_ms") < until_ms))
        .drop_nulls("attributes")
        .sort("event_time_ms", maintain_order=True)
        .unique(key, keep="last", maintain_order=True)
        .select(key, "attributes")
    )
    texts = dict(zip(said[key].to_list(), said["attributes"].to_list(), strict=True))
    parsed = {text: json.loads(text) for text in set(texts.values())}
    found = [parsed[texts[i]] if i in texts else {} for i in ids]
    names = sorted({name for one in parsed.values() for name in one})[:MAX_ATTRIBUTES]
    groupings = []
    for name in names:
        values = [_word(one.get(name)) for one in found]
        grouping = by_value(name, values)
        if grouping is not None:
            groupings.append(grouping)
    return groupings


def _word(value: object) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) and value else None
