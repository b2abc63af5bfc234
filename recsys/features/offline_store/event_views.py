"""The views the stream makes, answered from the event log: what training reads, through Feast.

An unknown or expired entity has zeros and empty lists, as online and in training rows; of a profile
nothing was said, which is null. The log's columns are read once for a request and held in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from recsys.errors import ConfigurationError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.event_times import with_times
from recsys.features.forgotten import without_forgotten
from recsys.features.log_rows import LogRows, Timeline, codes_of, read_rows, without_duplicates
from recsys.features.offline_store.computed import Computes
from recsys.features.offline_store.interactions import Interactions
from recsys.features.offline_store.label_order import Int64s
from recsys.features.recency import HistoryIndex
from recsys.features.view import View
from recsys.features.view_history import ViewHistory


class EventViews:
    """Views over one event log; read when the first of them is asked. Thread-safe."""

    def __init__(self, event_log_dir: Path, namespace: str) -> None:
        """Look at nothing yet.

        Args:
            event_log_dir: Folder the stream worker writes.
            namespace: Of the topics; Feast's project.
        """
        self._folder = event_log_dir
        self._topics = Topics(namespace=namespace)
        self._lock = threading.Lock()

    def of(self, view: View) -> Computes:
        """Give what computes ``view``, one that the stream makes."""
        if view.aggregates:
            return _Aggregates(self, view)
        if view.name == names.USER_HISTORY:
            return _Histories(self, view)
        return _Profiles(self, view)

    @property
    def rows(self) -> LogRows:
        """Behaviour as columns.

        Raises:
            ConfigurationError: the log holds nothing.
        """
        with self._lock:
            return self._rows

    @cached_property
    def _rows(self) -> LogRows:
        frame = self.scan().collect()
        if frame.is_empty():
            raise ConfigurationError(
                f"wanted events of {self._topics.behaviour} and {self._topics.items} in "
                f"{self._folder}, found none; set offline_store.event_log_dir in "
                "feature_store.yaml to the folder the stream worker writes, and the project to "
                "its namespace"
            )
        return read_rows(frame)

    def scan(self) -> pl.LazyFrame:
        """Give the log's rows."""
        return event_log.scan(self._folder, [self._topics.items, self._topics.behaviour])


class _Aggregates:
    def __init__(self, log: EventViews, view: View) -> None:
        self._log, self._view = log, view

    @cached_property
    def _history(self) -> ViewHistory:
        return ViewHistory(self._log.rows, self._view)

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> pa.Table:
        values = self._history.at(keys, moments_ms, known_by_ms=known_by_ms)
        columns: dict[str, pa.Array] = {
            aggregate.name: pa.array(np.ascontiguousarray(values[:, n]))
            for n, aggregate in enumerate(self._view.scalar_aggregates)
        }
        if self._view.list_aggregates:
            for name, lists in self._history.lists_at(
                keys, moments_ms, known_by_ms=known_by_ms
            ).items():
                columns[name] = pa.ListArray.from_arrays(
                    pa.array(lists.offsets, pa.int32()), pa.array(lists.values)
                )
        return pa.table(columns)


class _Histories:
    """``user_history``: see ``recency.py``."""

    def __init__(self, log: EventViews, view: View) -> None:
        self._log, self._view = log, view

    @cached_property
    def _interactions(self) -> Interactions:
        log = self._log.rows
        acted = log.rows.select("interaction")
        # Ties are ordered by the item's hash, so hashes are indexed, not codes.
        return Interactions(
            log.rows.owner[acted],
            log.item_hash[log.item[acted]],
            log.rows.time_ms[acted],
            log.known_ms[acted],
            len(log.user_ids),
        )

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> pa.Table:
        (key,) = self._view.join_keys
        user = self._log.rows.user_codes(keys[key])
        answer = self._values(self._interactions.index, user, moments_ms)
        if known_by_ms is None:
            return answer
        rows = np.arange(len(user))
        answers = [answer]
        for late, index in self._interactions.by_question(user, moments_ms, known_by_ms):
            rows[late] = sum(len(a) for a in answers) + np.arange(len(late))
            answers.append(self._values(index, np.arange(len(late)), moments_ms[late]))
        return answer if len(answers) == 1 else pa.concat_tables(answers).take(pa.array(rows))

    def _values(self, index: HistoryIndex, user: Int64s, moments_ms: Int64s) -> pa.Table:
        log = self._log.rows
        if self._view.expires:
            age = moments_ms - index.last_ms(user, moments_ms)
            user = np.where(age > self._view.ttl_ms, -1, user)
        recent = index.at(user, moments_ms)
        by_hash = np.argsort(log.item_hash)
        code = by_hash[np.searchsorted(log.item_hash, recent.item, sorter=by_hash)]
        item_ids = log.item_ids.cast(pl.String).to_arrow().cast(pa.string())
        values = {
            "item_ids": item_ids.take(pa.array(code)),
            "counts": pa.array(recent.count.astype(np.int64)),
            "last_ms": pa.array(recent.last_ms),
        }
        offsets = pa.array(recent.offsets.astype(np.int32))
        return pa.table(
            {name: pa.ListArray.from_arrays(offsets, column) for name, column in values.items()}
        )


_LOG_COLUMNS = (
    *("topic", "partition", "offset", "ingest_time_ms"),
    *("kind", "event_id", "event_time_ms"),
)
_COLUMNS = ("title", "category", "price", "born_ms", "available")
_DEFAULTS: dict[str, Any] = {"title": "", "category": "", "available": True}
"""Of an item event that leaves a field out (``events/schema.py``)."""


class _Profiles:
    """What the newest event says: by effective time, then by position in the log."""

    def __init__(self, log: EventViews, view: View) -> None:
        self._log, self._view = log, view

    @cached_property
    def _told(self) -> tuple[pl.Series, Timeline, Int64s, pa.Table]:
        """Entities, when each said what, when that was received, and what."""
        (key,) = self._view.join_keys
        kind = "user" if self._view.name == names.USER_PROFILE else "item"
        scan = self._log.scan()
        if kind == "item":
            scan = scan.filter(pl.col("kind") == kind)
        said = [key, "attributes", *(c for c in _COLUMNS if c in self._view.feature_names)]
        wanted = dict.fromkeys([*_LOG_COLUMNS, "user_id", *said])
        # Other kinds of events are read too: what came twice is judged by id alone.
        frame = without_forgotten(without_duplicates(scan.select(*wanted).collect()))
        frame = with_times(frame.filter(pl.col("kind") == kind)).sort(
            key, "effective_ms", "topic", "partition", "offset"
        )
        entities = frame[key].unique().sort()
        owner = codes_of(entities, frame[key])
        when = Timeline(owner, frame["effective_ms"].to_numpy().astype(np.int64), len(entities))
        known_ms = frame["known_ms"].to_numpy().astype(np.int64)
        return entities, when, known_ms, self._values(frame)

    def _values(self, frame: pl.DataFrame) -> pa.Table:
        columns: dict[str, pl.Series] = {}
        for name in self._view.feature_names:
            if name == "tokens":
                tokens = [
                    names.tokens_of(msgspec.json.decode(text)) if text else []
                    for text in frame["attributes"]
                ]
                columns[name] = pl.Series(name, tokens, dtype=pl.List(pl.String))
            elif name == "born_ms":
                columns[name] = frame["born_ms"].fill_null(frame["effective_ms"])
            elif name in _DEFAULTS:
                columns[name] = frame[name].fill_null(_DEFAULTS[name])
            else:
                columns[name] = frame[name]
        return pl.DataFrame(columns).to_arrow(compat_level=pl.CompatLevel.oldest())

    def at(
        self,
        keys: Mapping[str, Sequence[str]],
        moments_ms: Int64s,
        *,
        known_by_ms: Int64s | None = None,
    ) -> pa.Table:
        entities, when, known_ms, values = self._told
        (key,) = self._view.join_keys
        owner = codes_of(entities, keys[key])
        version = when.latest(owner, moments_ms)
        if known_by_ms is not None:
            late = np.flatnonzero(version >= 0)
            while len(late := late[known_ms[version[late]] > known_by_ms[late]]):
                version[late] -= 1  # what was said before that, if it is of the same entity
                version[late[when.owner[version[late]] != owner[late]]] = -1
                late = late[version[late] >= 0]
        if self._view.expires and len(when.time_ms):
            version[moments_ms - when.time_ms[version] > self._view.ttl_ms] = -1
        return values.take(pa.array(version, mask=version < 0))
