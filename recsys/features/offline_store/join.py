"""One view joined to the labels: keys and times first, then the features of the chosen rows.

Both passes go chunk by chunk. Memory is the labels' (some 60 bytes each), one chunk of the source,
and the answer; the length of the source does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import pyarrow as pa

from recsys.features.offline_store.asof import NO_TIME, AsOf
from recsys.features.offline_store.gather import gather
from recsys.features.offline_store.keys import KeyCodes
from recsys.features.offline_store.label_order import Int64s
from recsys.features.offline_store.labels import JoinLabels
from recsys.features.offline_store.parts import Parts, RowGroup
from recsys.features.offline_store.plain_pages import plain_pages
from recsys.features.offline_store.times import Unit, times_of, unit_of


class Joined(Protocol):
    """What can be joined to labels: rows of a source, or values computed at the labels' moments."""

    @property
    def name(self) -> str:
        """Of the view."""

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Columns of the labels that hold the key."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the answer."""

    @property
    def row_bytes(self) -> int:
        """About what one row of the answer takes."""

    def features_at(self, labels: JoinLabels, max_bytes: int) -> pa.Table:
        """Features of each label (L,), in the labels' order."""


@dataclass(frozen=True)
class ViewJoin:
    """What to fetch from one source.

    Attributes:
        name: Of the view, for messages.
        parts: The source.
        keys: Pairs of (column of the source, column of the labels); empty for a view of no entity.
        timestamp: Column of the event time.
        created: Column of the created time, or None.
        ttl: How long a row counts after its event time; None or zero: for ever.
        features: Pairs of (column of the source, column of the answer).
        knowledge: Whether a row must have been created by the label's moment.
    """

    name: str
    parts: Parts
    keys: tuple[tuple[str, str], ...]
    timestamp: str
    created: str | None
    ttl: timedelta | None
    features: tuple[tuple[str, str], ...]
    knowledge: bool = False

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Columns of the labels that hold the key."""
        return tuple(label for _, label in self.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the answer."""
        return tuple(name for _, name in self.features)

    @property
    def row_bytes(self) -> int:
        """About what one row of the answer takes: what one of the source's does on the average."""
        columns = [source for source, _ in self.features]
        groups = self.parts.row_groups
        rows = sum(group.num_rows for group in groups)
        return sum(self.parts.size(group, columns) for group in groups) // max(rows, 1)

    def features_at(self, labels: JoinLabels, max_bytes: int) -> pa.Table:
        """The chosen rows' features."""
        return join_view(labels, self, max_bytes)


def join_views(labels: pa.Table, moment: str, views: Sequence[Joined], max_bytes: int) -> pa.Table:
    """The labels with the features of all views, in the views' order.

    Views are joined side by side on the machine's cores (Arrow and NumPy let go of the
    interpreter's lock) and share ``max_bytes``.
    """
    workers = max(min(len(views), os.cpu_count() or 1), 1)
    shared = JoinLabels(labels, moment)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="point-in-time-join")
    with plain_pages(), pool:
        answers = pool.map(lambda view: view.features_at(shared, max_bytes // workers), views)
        for features in answers:
            for name in features.column_names:
                labels = labels.append_column(name, features.column(name))
    return labels


def join_view(labels: JoinLabels, view: ViewJoin, max_bytes: int) -> pa.Table:
    """Features of one view for each label.

    Args:
        labels: Keys and moments (L,).
        view: What to fetch.
        max_bytes: How much of the source to hold at once.

    Returns:
        The features' columns (L,); null where no row counts.
    """
    rows = chosen_rows(labels, view, max_bytes)
    # One column may be asked for under two names.
    columns = list(dict.fromkeys(source for source, _ in view.features))
    table = gather(view.parts, rows, columns, max_bytes)
    return pa.table(
        [table.column(source) for source, _ in view.features],
        names=[name for _, name in view.features],
    )


def chosen_rows(labels: JoinLabels, view: ViewJoin, max_bytes: int) -> Int64s:
    """Position in the source of each label's row (L,), -1 where none counts."""
    parts = view.parts
    times = [view.timestamp] + ([view.created] if view.created else [])
    unit = unit_of(parts.types(times))
    names = [source for source, _ in view.keys]
    keys, order = labels.keyed(view.label_keys, parts.types(names), names)
    latest, earliest, _ = labels.limits(view.ttl, unit)
    created_of = _created_of(parts, view.created, unit, max_bytes)
    joined = AsOf(keys.codes, latest, earliest, created_of, order)
    if joined.span is None:
        return joined.rows()
    lowest, highest = joined.span
    groups = parts.between(view.timestamp, lowest, highest, unit)
    columns = [*names, view.timestamp]
    if view.knowledge and view.created:
        known = set(parts.between(view.created, int(NO_TIME) + 1, highest, unit))
        groups = tuple(group for group in groups if group in known)
        columns.append(view.created)
    groups = _of_keys(parts, groups, names, keys)
    for table, positions in parts.chunks(groups, columns, max_bytes):
        row_codes = keys.of([table.column(name) for name in names], len(table))
        table = table.select([name for name in columns if name not in names or name in times])
        event = times_of(table.column(view.timestamp), unit, view.timestamp)
        created = None
        if view.knowledge and view.created:
            created = times_of(table.column(view.created), unit, view.created)
        joined.add(row_codes, event, positions, created)
    return joined.rows()


def _created_of(
    parts: Parts, created: str | None, unit: Unit, max_bytes: int
) -> Callable[[Int64s], Int64s] | None:
    if created is None:
        return None
    return lambda rows: times_of(
        gather(parts, rows, [created], max_bytes).column(created), unit, created
    )


def _of_keys(
    parts: Parts, groups: tuple[RowGroup, ...], names: list[str], keys: KeyCodes
) -> tuple[RowGroup, ...]:
    """Leave out row groups whose span of a key column holds none of the labels' values."""
    for name, distinct in zip(names, keys.distinct, strict=True):
        if not (pa.types.is_integer(distinct.type) or pa.types.is_string(distinct.type)):
            continue
        if len(distinct):
            values = distinct.sort()
            groups = parts.overlapping(groups, name, values[0].as_py(), values[-1].as_py())
    return groups
