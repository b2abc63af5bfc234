"""Any view of windowed aggregates at any past moment, whatever it is keyed by.

The offline twin of ``AggregateUpdate``: gives, to the bit, what the online store would have given
then for all that happened by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.errors import InputError
from recsys.features.aggregates import Rows
from recsys.features.batch import Float32s, Int64s
from recsys.features.entities import check_keys
from recsys.features.event_index import EventIndex, values_at
from recsys.features.log_rows import LogRows, codes_of
from recsys.features.plan import View


class ViewIndex:
    """All aggregates of one view, indexed by owner; its TTL applied."""

    def __init__(self, view: View, rows: Rows) -> None:
        self._view = view
        self._indexes = {column: EventIndex(rows, column) for column in view.columns}
        self._any = EventIndex(rows, None) if view.expires else None

    def at(self, owner: Int64s, t: Int64s) -> Float32s:
        """Give ``[Q, F]`` of ``owner[q]`` (-1: unknown) at ``t[q]``."""
        values = values_at(self._view, self._indexes, owner, t)
        if self._any is not None:
            newest = self._any.newest_ms(owner, t)
            values[t - newest > self._view.ttl_ms] = 0.0
        return values


class ViewHistory:
    """Values of one view for any entity of its join keys."""

    def __init__(self, log: LogRows, view: View) -> None:
        """Index the log for ``view``.

        Raises:
            FeatureError: when the view has other keys than behaviour carries.
        """
        check_keys(view)
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
        self._index = ViewIndex(view, log.rows.take(some, owner.astype(np.int64)))

    def _combine(self, codes: Mapping[str, Int64s]) -> Int64s:
        combined = np.zeros(len(codes[self._join_keys[0]]), dtype=np.int64)
        for name in self._join_keys:
            combined = combined * max(len(self._distinct[name]), 1) + codes[name]
        return combined

    def at(self, keys: Mapping[str, Sequence[str]], moments_ms: Int64s) -> Float32s:
        """Give ``[Q, F]``: the entity ``keys[…][q]`` at ``moments_ms[q]``; zeros if unknown.

        Raises:
            InputError: when a join key is absent, or not of the length of the moments.
        """
        t = np.asarray(moments_ms, dtype=np.int64)
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
        return self._index.at(np.where(found, place, -1), t)
