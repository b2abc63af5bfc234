"""Any view of windowed aggregates at any past moment, whatever it is keyed by.

The offline twin of ``AggregateUpdate``: gives, to the bit, what the online store would have given
then for all that happened by then; with ``known_by``, for all that the log had received by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl

from recsys.errors import InputError
from recsys.features.batch import Float32s, Int64s, Ragged
from recsys.features.entities import check_keys
from recsys.features.event_index import EventIndex, lists_at, values_at
from recsys.features.event_rows import Rows
from recsys.features.log_rows import LogRows, codes_of
from recsys.features.received import Received
from recsys.features.view import View

_Answer = TypeVar("_Answer")


class ViewIndex:
    """All aggregates of one view, indexed by owner; its TTL applied."""

    def __init__(self, view: View, rows: Rows) -> None:
        self._view = view
        self._indexes = {column: EventIndex(rows, column) for column in view.columns}
        self._any = EventIndex(rows, None) if view.expires else None

    def at(self, owner: Int64s, t: Int64s) -> Float32s:
        """Give ``[Q, F]`` of ``owner[q]`` (-1: unknown) at ``t[q]``."""
        return values_at(self._view, self._indexes, self._unexpired(owner, t), t)

    def lists_at(self, owner: Int64s, t: Int64s) -> dict[str, Ragged]:
        """Give the lists of ``owner[q]`` at ``t[q]``, by the name of the aggregate."""
        return lists_at(self._view, self._indexes, self._unexpired(owner, t), t)

    def _unexpired(self, owner: Int64s, t: Int64s) -> Int64s:
        """Give -1 in place of owners whose newest event is older than the TTL."""
        if self._any is None:
            return owner
        return np.where(t - self._any.newest_ms(owner, t) > self._view.ttl_ms, -1, owner)


class EveryEntity(NamedTuple):
    """One view of all its entities at one moment, ``[N]`` each."""

    keys: pl.DataFrame
    """A column for each join key."""
    newest_ms: Int64s
    values: Float32s
    """``[N, F]``, columns as ``view.scalar_aggregates``; zeros when the TTL has passed."""
    lists: dict[str, Ragged]


class ViewHistory:
    """Values of one view for any entity of its join keys."""

    def __init__(self, log: LogRows, view: View) -> None:
        """Index the log for ``view``.

        Raises:
            FeatureError: when the view has other keys than behaviour carries.
        """
        check_keys(view)
        self._view = view
        self._join_keys = view.join_keys
        categories = log.item_category.category.unique().sort()
        self._distinct = {"user_id": log.user_ids, "item_id": log.item_ids, "category": categories}
        codes = {"user_id": log.user, "item_id": log.item}
        some = np.arange(len(log.user))
        if "category" in view.join_keys:
            codes["category"] = log.item_category.at(
                log.item, log.rows.time_ms, log.known_ms, categories.to_list()
            )
            some = np.flatnonzero(codes["category"] >= 0)
        combined = self._combine({name: codes[name][some] for name in view.join_keys})
        self._entities, owner = np.unique(combined, return_inverse=True)
        rows = log.rows_for(view).take(some, owner.astype(np.int64))
        self._rows = rows
        self._index = ViewIndex(view, rows)
        self._received = Received(view, rows, log.known_ms[some])

    def _combine(self, codes: Mapping[str, Int64s]) -> Int64s:
        combined = np.zeros(len(codes[self._join_keys[0]]), dtype=np.int64)
        for name in self._join_keys:
            combined = combined * max(len(self._distinct[name]), 1) + codes[name]
        return combined

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> Float32s:
        """Give ``[Q, F]``: the entity ``keys[…][q]`` at ``moments_ms[q]``; zeros if unknown.

        The columns are ``view.scalar_aggregates``. With ``known_by_ms`` (``[Q]``) events that the
        log received after ``known_by_ms[q]`` do not count: what a reader was given who asked then.

        Raises:
            InputError: when a join key is absent, or not of the length of the moments.
        """
        t = np.asarray(moments_ms, dtype=np.int64)
        owner = self._owners(keys, t)
        values = self._index.at(owner, t)
        for late, found in self._again(owner, t, known_by_ms, ViewIndex.at):
            values[late] = found
        return values

    def lists_at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> dict[str, Ragged]:
        """Give ``view.list_aggregates`` by name, of the same questions as ``at``."""
        t = np.asarray(moments_ms, dtype=np.int64)
        owner = self._owners(keys, t)
        lists = self._index.lists_at(owner, t)
        for late, found in self._again(owner, t, known_by_ms, ViewIndex.lists_at):
            lists = {name: _with_rows(lists[name], late, found[name]) for name in lists}
        return lists

    def everyone_at(self, moment_ms: int) -> EveryEntity:
        """Give every entity that had an event by ``moment_ms``, sorted by its join keys."""
        t = np.full(len(self._entities), moment_ms, dtype=np.int64)
        newest = EventIndex(self._rows, None).newest_ms(np.arange(len(t)), t)
        owner = np.flatnonzero(newest >= 0)
        codes, combined = {}, self._entities[owner]
        for name in reversed(self._join_keys):
            size = max(len(self._distinct[name]), 1)
            codes[name] = combined % size
            combined = combined // size
        keys = {name: self._distinct[name].gather(codes[name]) for name in self._join_keys}
        return EveryEntity(
            pl.DataFrame(keys),
            newest[owner],
            self._index.at(owner, t[owner]),
            self._index.lists_at(owner, t[owner]),
        )

    def _owners(self, keys: Mapping[str, Sequence[str]], t: Int64s) -> Int64s:
        sizes = {name: len(keys[name]) if name in keys else None for name in self._join_keys}
        if set(sizes.values()) != {len(t)}:
            raise InputError(
                f"wanted {len(t)} values of each of {', '.join(self._join_keys)}, one for each "
                f"moment; found {sizes}"
            )
        codes = {name: codes_of(self._distinct[name], keys[name]) for name in self._join_keys}
        combined = self._combine(codes)
        place = np.searchsorted(self._entities, combined)
        found = np.append(self._entities, -1)[place] == combined
        for code in codes.values():
            found &= code >= 0
        return np.where(found, place, -1)

    def _again(
        self,
        owner: Int64s,
        t: Int64s,
        known_by_ms: Int64s | None,
        answer: Callable[[ViewIndex, Int64s, Int64s], _Answer],
    ) -> Iterator[tuple[Int64s, _Answer]]:
        """Answer anew, from what was known, the questions that later events had a part in."""
        if known_by_ms is None:
            return
        known_by = np.asarray(known_by_ms, dtype=np.int64)
        if len(known_by) != len(t):
            raise InputError(
                f"wanted one known_by_ms for each of {len(t)} moments, found {len(known_by)}"
            )
        for questions, rows in self._received.by_question(owner, t, known_by):
            index = ViewIndex(self._view, rows)
            yield questions, answer(index, np.arange(len(questions)), t[questions])


def _with_rows(lists: Ragged, places: Int64s, others: Ragged) -> Ragged:
    """Give ``lists`` with some rows replaced."""
    rows = [lists.row(n) for n in range(len(lists))]
    for n, place in enumerate(places.tolist()):
        rows[place] = others.row(n)
    lengths = [len(row) for row in rows]
    return Ragged(
        np.concatenate([lists.values[:0], *rows]), np.concatenate([[0], np.cumsum(lengths)])
    )
