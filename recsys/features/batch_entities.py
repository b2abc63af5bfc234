"""Whose the rows of a batch are: the users, items and categories that its events speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.features.batch import Int64s
from recsys.features.batch_columns import BatchColumns
from recsys.features.categories import Said, Timelines
from recsys.features.entities import Ids, KeyGroup
from recsys.features.event_rows import NO_CATEGORY
from recsys.features.names import identity_hashes
from recsys.features.view_updates import Log


class Entities:
    """The entities of one group in a batch, and whose each row of behaviour is."""

    def __init__(self, ids: Sequence[Ids], rows: Int64s | None, owner: Int64s) -> None:
        self.ids = ids
        self.rows = np.arange(len(owner)) if rows is None else rows
        """Rows that are of an entity at all: those of no category are of none."""
        self.owner = owner

    def log(self, batch: BatchColumns) -> Log:
        """Give whose each row is, and where in the log it stood."""
        return Log(self.owner, batch.source[self.rows], batch.offset[self.rows], self.rows)


class Categories:
    """Category of each row, as a place in ``names``; -1 for none."""

    def __init__(self, names: list[str], of_row: Int64s) -> None:
        self.names = names
        self.of_row = of_row


def categories_of(batch: BatchColumns, of_items: Sequence[Sequence[Said]]) -> Categories:
    """Give the category of each row of behaviour, as of its time and what was known then.

    ``of_items``: what was said of each of the batch's items.
    """
    said: list[tuple[int, Said]] = [
        (n, one) for n, timeline in enumerate(of_items) for one in timeline
    ]
    timelines = Timelines(
        np.array([n for n, _ in said], dtype=np.int64),
        np.array([one[0] for _, one in said], dtype=np.int64),
        np.array([one[1] for _, one in said], dtype=np.int64),
        len(of_items),
    )
    names: dict[str, int] = {}
    codes = [names.setdefault(one[2], len(names)) if one[2] else -1 for _, one in said]
    place = timelines.at(batch.item, batch.rows.time_ms, batch.known_ms)
    return Categories(list(names), np.array([*codes, -1], dtype=np.int64)[place])


def with_identities(
    batch: BatchColumns, wanted: frozenset[str], category: Categories | None
) -> BatchColumns:
    """Give rows the hashes of their items and categories, where a view wants them."""
    if not wanted:
        return batch
    item = identity_hashes(batch.item_ids)[batch.item] if "item_id" in wanted else None
    hashes = None
    if "category" in wanted and category is not None:
        hashes = np.append(identity_hashes(category.names), NO_CATEGORY)[category.of_row]
    return replace(batch, rows=replace(batch.rows, item=item, category=hashes))


def entities_of(group: KeyGroup, batch: BatchColumns, category: Categories | None) -> Entities:
    """Give the entities of a group that a batch speaks of, and the rows of each."""
    if group.join_keys == ("user_id",):
        return Entities(batch.user_ids, None, batch.user)
    columns: dict[str, tuple[Int64s, list[str]]] = {
        "user_id": (batch.user, batch.user_ids),
        "item_id": (batch.item, batch.item_ids),
    }
    rows = np.arange(len(batch.user))
    if category is not None and "category" in group.join_keys:
        columns["category"] = (category.of_row, category.names)
        rows = np.flatnonzero(category.of_row >= 0)
    combined = np.zeros(len(rows), dtype=np.int64)
    for name in group.join_keys:
        codes, values = columns[name]
        combined = combined * max(len(values), 1) + codes[rows]
    distinct, owner = np.unique(combined, return_inverse=True)
    parts: list[list[str]] = []
    for name in reversed(group.join_keys):
        values = columns[name][1]
        width = max(len(values), 1)
        parts.append([values[code] for code in (distinct % width).tolist()])
        distinct = distinct // width
    ids: list[Ids] = [*parts[0]] if len(parts) == 1 else [*zip(*reversed(parts), strict=True)]
    return Entities(ids, rows, owner.astype(np.int64))
