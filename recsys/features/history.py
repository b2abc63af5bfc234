"""Features as they were: the point-in-time reader of the event log.

Gives what ``online.py`` would have given at that moment, to the bit: a value at ``t`` depends on
events with event time <= ``t``, by the definitions of ``aggregates.py`` and ``recency.py``. A
training example made for an event must therefore ask for the moment *before* it
(``moment = event_time_ms - 1``), or it would see its own label.

Axes as in ``batch.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.vocabulary import Vocabulary
from recsys.errors import InputError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.batch import (
    Bools,
    Float32s,
    Int32s,
    Int64s,
    ItemActivity,
    Ragged,
    UserFeatures,
)
from recsys.features.log_rows import LogRows, codes_of, read_rows
from recsys.features.plan import Plan
from recsys.features.recency import HistoryIndex
from recsys.features.view_history import ViewIndex
from recsys.features.vocabulary_hashes import rows_of_hashes

EventLogSource = pl.DataFrame | pl.LazyFrame | Path | LogRows
"""A frame of the log, its folder (``Settings.event_log_dir``), or columns already read from it."""


def open_rows(log: EventLogSource, plan: Plan) -> LogRows:
    """Give the log's columns; pass them to several readers to read it once."""
    if isinstance(log, LogRows):
        return log
    if isinstance(log, Path):
        topics = Topics(namespace=plan.project)
        log = event_log.scan(log, [topics.items, topics.behaviour])
    return read_rows(log)


class UserHistory:
    """Features of users at past moments."""

    _CHUNK = 2_000_000
    """(moment, category) pairs looked at in one step: bounds memory."""

    def __init__(self, log: EventLogSource, plan: Plan, vocabulary: Vocabulary) -> None:
        self._log = open_rows(log, plan)
        self._plan = plan
        self._vocabulary = vocabulary
        rows = self._log.rows
        activity = plan.view(names.USER_ACTIVITY)
        self._activity = ViewIndex(activity, self._log.rows_for(activity))
        history = plan.view(names.USER_HISTORY)
        self._history_ttl_ms = history.ttl_ms
        ttl_ms = {view.name: view.ttl_ms for view in plan.views}
        self._profile_ttl_ms = ttl_ms.get(names.USER_PROFILE, 0)  # 0: what is said stays
        mask = rows.select("interaction")
        self._history = HistoryIndex(
            rows.owner[mask],
            self._log.item_hash[self._log.item[mask]],
            rows.time_ms[mask],
            len(self._log.user_ids),
        )
        self._index_categories()

    def _index_categories(self) -> None:
        view = self._plan.view(names.USER_CATEGORY_ACTIVITY)
        rows = self._log.rows_for(view)
        categories = self._vocabulary.categories
        category = self._log.item_category.at(
            self._log.item, rows.time_ms, self._log.known_ms, categories
        )
        some = np.flatnonzero(category >= 0)
        pair = rows.owner[some] * max(len(categories), 1) + category[some]
        pairs, owner = np.unique(pair, return_inverse=True)
        self._pair_user = pairs // max(len(categories), 1)
        self._pair_category = pairs % max(len(categories), 1)
        bounds = np.arange(len(self._log.user_ids) + 1)
        self._pair_starts = np.searchsorted(self._pair_user, bounds)
        self._category_activity = ViewIndex(view, rows.take(some, owner.astype(np.int64)))

    def features_at(self, user_ids: Sequence[str], moments_ms: Int64s) -> UserFeatures:
        """Give the features of ``user_ids[b]`` at ``moments_ms[b]``.

        Raises:
            InputError: when the two are not of one length.
        """
        t = np.asarray(moments_ms, dtype=np.int64)
        if len(user_ids) != len(t):
            raise InputError(
                f"wanted one moment for each user, found {len(user_ids)} users and {len(t)} moments"
            )
        user = self._log.user_codes(user_ids)
        first = np.append(self._log.user_first_ms, np.iinfo(np.int64).max)[user]
        history_index, history_count, history_last_ms = self._recent(user, t)
        return UserFeatures(
            as_of_ms=t,
            known=first <= t,
            token_hashes=self._tokens(user, t),
            activity=self._activity.at(user, t),
            history_index=history_index,
            history_count=history_count,
            history_last_ms=history_last_ms,
            category_activity=self._categories(user, t),
        )

    def last_interaction_ms(self, user_ids: Sequence[str], moments_ms: Int64s) -> Int64s:
        """Give the time of each user's latest interaction by then; -1 when there is none."""
        return self._history.last_ms(self._log.user_codes(user_ids), moments_ms)

    def _tokens(self, user: Int64s, t: Int64s) -> Ragged:
        said = self._log.profiles
        version = said.latest(user, t)
        if self._profile_ttl_ms and len(said.time_ms):
            version = np.where(t - said.time_ms[version] > self._profile_ttl_ms, -1, version)
        offsets = self._log.profile_tokens.offsets
        begin = np.where(version >= 0, offsets[version], 0)
        end = np.where(version >= 0, offsets[np.minimum(version + 1, len(offsets) - 1)], 0)
        lengths = end - begin
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        place = np.arange(bounds[-1]) + np.repeat(begin - bounds[:-1], lengths)
        return Ragged(self._log.profile_tokens.values[place], bounds)

    def _recent(self, user: Int64s, t: Int64s) -> tuple[Ragged, Ragged, Ragged]:
        if self._history_ttl_ms:
            last = self._history.last_ms(user, t)
            user = np.where(t - last > self._history_ttl_ms, -1, user)
        recent = self._history.at(user, t)
        index = rows_of_hashes(self._vocabulary, recent.item)
        kept = recent.take(index > 0)
        return (
            Ragged(index[index > 0], kept.offsets),
            Ragged(kept.count, kept.offsets),
            Ragged(kept.last_ms, kept.offsets),
        )

    def _categories(self, user: Int64s, t: Int64s) -> Float32s:
        num_columns = len(self._plan.user_category_activity_names)
        values = np.zeros((len(t), len(self._vocabulary.categories), num_columns), dtype=np.float32)
        known = np.maximum(user, 0)
        begin = np.where(user >= 0, self._pair_starts[known], 0)
        lengths = (
            np.where(user >= 0, self._pair_starts[known + 1] - begin, 0)
            if len(self._pair_user)
            else np.zeros(len(user), dtype=np.int64)
        )
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        b = 0
        while b < len(t):
            stop = int(np.searchsorted(bounds, bounds[b] + self._CHUNK, side="right")) - 1
            stop = max(stop, b + 1)
            size = lengths[b:stop]
            question = np.repeat(np.arange(b, stop), size)
            pair = np.arange(len(question)) + np.repeat(
                begin[b:stop] - (bounds[b:stop] - bounds[b]), size
            )
            found = self._category_activity.at(pair, t[question])
            values[question, self._pair_category[pair]] = found
            b = stop
        return values


class ItemHistory:
    """Moving features of items at past moments."""

    def __init__(self, log: EventLogSource, plan: Plan, vocabulary: Vocabulary) -> None:
        self._log = open_rows(log, plan)
        self._vocabulary = vocabulary
        view = plan.view(names.ITEM_ACTIVITY)
        by_item = replace(self._log.rows_for(view), owner=self._log.item)
        self._activity = ViewIndex(view, by_item)
        codes = codes_of(self._log.item_ids, vocabulary.item_ids)
        self._code_of_row = np.concatenate([[-1], codes]).astype(np.int64)

    def activity_at(self, item_ids: Sequence[str] | None, moment_ms: int) -> ItemActivity:
        """Give the features of ``item_ids`` (``None``: the vocabulary in order) at one moment."""
        code = self._code_of_row[1:] if item_ids is None else self._log.item_codes(item_ids)
        t = np.full(len(code), moment_ms, dtype=np.int64)
        first = np.append(self._log.item_first_ms, np.iinfo(np.int64).max)[code]
        known: Bools = first <= t
        return ItemActivity(as_of_ms=moment_ms, known=known, activity=self._activity.at(code, t))

    def activity_of_pairs(self, item_index: Int32s | Int64s, moments_ms: Int64s) -> Float32s:
        """Give ``[n, Fi]`` of vocabulary row ``item_index[n]`` (0: zeros) at ``moments_ms[n]``."""
        t = np.asarray(moments_ms, dtype=np.int64)
        return self._activity.at(self._code_of_row[item_index], t)
