"""Which fields of which hashes a read wants, and what the bytes found there mean.

``N`` entities, ``F`` float32 features. A group is the views of one kind of entity: they lie in one
hash. Rows that all look alike come as arrays (``redis/regular_rows.py``), others value by value.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.batch import Int64s
from recsys.features.current_rows import Places, current
from recsys.features.entity_keys import EntityKeyColumns
from recsys.features.feature_rows import Column, FeatureRows, ViewTimes
from recsys.features.redis.regular_rows import (
    FRAMED_FLOAT,
    RegularRows,
    RowShape,
)
from recsys.features.value_columns import (
    FLOAT_HEAD,
    Mask,
    Masks,
    RaggedColumn,
    Values,
    decode_column,
    decode_float_rows,
    decode_stamps,
    decode_timestamps,
    decode_vectors,
    vector_head,
)
from recsys.features.view import Feature, View


class Group(NamedTuple):
    """Views that lie in one hash, and what to read of it."""

    keys: EntityKeyColumns
    fields: tuple[bytes, ...]
    """What is read."""
    places: tuple[int, ...]
    """Of each field that is read, where it goes in a row: first the float32 features, then the
    others, then the times of the views, then states. What is made from state is not read."""
    width: int
    """Of a row."""
    float_names: tuple[str, ...]
    float_views: npt.NDArray[np.int64]
    """``[F]``: index into ``views``."""
    others: tuple[tuple[str, int, Feature], ...]
    """``(name, index into views, feature)``."""
    views: tuple[View, ...]
    streamed: tuple[Places, ...] = ()
    """Views whose values are made from state."""
    shape: RowShape | None = None
    """Of a row where every value is there; ``None`` when that is not of one size."""


def make_group(project: str, chosen: Sequence[tuple[View, Sequence[Feature]]]) -> Group:
    """Give what to read for features of views with the same join keys."""
    floats: list[tuple[str, int, Feature]] = []
    others: list[tuple[str, int, Feature]] = []
    for index, (view, features) in enumerate(chosen):
        for feature in features:
            target = floats if feature.type == "float32" else others
            target.append((f"{view.name}:{feature.name}", index, feature))
    views = tuple(view for view, _ in chosen)
    num_features = len(floats) + len(others)
    streamed: list[Places] = []
    for index, view in enumerate(views):
        if view.is_made_when_read:
            read = {
                feature.name: place
                for place, (_, of_view, feature) in enumerate((*floats, *others))
                if of_view == index
            }
            state = num_features + len(views) + len(streamed)
            streamed.append(Places(view, read, num_features + index, state))
    row = [
        *(
            feature.field_bytes if feature in views[index].stored_features else None
            for _, index, feature in (*floats, *others)
        ),
        *(view.timestamp_field if view.stores_values else None for view in views),
        *(places.view.state_field for places in streamed),
    ]
    return Group(
        keys=EntityKeyColumns.of_view(views[0], project),
        fields=tuple(field for field in row if field is not None),
        places=tuple(place for place, field in enumerate(row) if field is not None),
        width=len(row),
        float_names=tuple(name for name, _, _ in floats),
        float_views=np.array([index for _, index, _ in floats], dtype=np.int64),
        others=tuple(others),
        views=views,
        streamed=tuple(streamed),
        shape=None if streamed else _shape(len(floats), [f for _, _, f in others], len(views)),
    )


_MIN_VALUES = 4
"""Values of a row from which on arrays cost less than an object for each (of 501 rows of one vector
they cost as much, of 20 floats half)."""


def _shape(num_floats: int, others: Sequence[Feature], num_views: int) -> RowShape | None:
    if not all(feature.type == "float32_list" and feature.columns for feature in others):
        return None
    vectors = [(vector_head(len(feature.columns)), 4 * len(feature.columns)) for feature in others]
    values = [(FLOAT_HEAD, 4)] * num_floats + vectors
    return RowShape(values, num_views) if len(values) >= _MIN_VALUES else None


def decode_group(
    group: Group,
    rows: Sequence[Sequence[bytes | None]] | RegularRows,
    now_us: int,
    *,
    keep_expired: bool = False,
) -> FeatureRows:
    """Give what the bytes of a group's hashes mean at ``now_us``."""
    if isinstance(rows, RegularRows):
        return _decode_regular(group, rows, now_us, keep_expired=keep_expired)
    num_floats = len(group.float_names)
    if len(group.fields) < group.width:
        rows = _spread(rows, group)
    if group.streamed:
        rows = current(rows, group.streamed, now_us // 1000)
    floats, float_mask = decode_float_rows(rows, num_floats)
    # All of a place at once; the floats are many, and taken row by row.
    rest = list(
        zip(*(map(itemgetter(slice(num_floats, None)), rows) if num_floats else rows), strict=True)
    )
    columns_of = rest if len(rows) else [()] * (group.width - num_floats)
    stored = [
        decode_timestamps(columns_of[len(group.others) + index])
        for index in range(len(group.views))
    ]
    status, hidden, views = _status(group, len(rows), stored, now_us, keep_expired=keep_expired)
    if hidden is not None and num_floats:
        of_view = status[:, group.float_views]
        # What is missing or null by itself stays so in a view that is there.
        float_mask = np.where(of_view != Mask.PRESENT, of_view, float_mask)
        floats = np.where(hidden[:, group.float_views], np.float32(np.nan), floats)
    columns: dict[str, Column] = {}
    for offset, (name, index, feature) in enumerate(group.others):
        found: Sequence[bytes | None] = columns_of[offset]
        if hidden is not None:
            gone = hidden[:, index].tolist()
            found = [None if g else value for value, g in zip(found, gone, strict=True)]
        values: Values | RaggedColumn
        if feature.columns and feature.type == "float32_list":
            values, mask = decode_vectors(found, len(feature.columns))
        else:
            values, mask = decode_column(found, feature.type)
        if hidden is not None:
            mask = np.where(status[:, index] != Mask.PRESENT, status[:, index], mask)
        columns[name] = Column(values, mask)
    return FeatureRows(
        num_rows=len(rows),
        float_names=group.float_names,
        floats=floats,
        float_mask=float_mask,
        columns=columns,
        views=views,
    )


def _decode_regular(
    group: Group, rows: RegularRows, now_us: int, *, keep_expired: bool
) -> FeatureRows:
    """Do as ``decode_group`` for rows that have all their values."""
    count, num_floats = len(rows.cells), len(group.float_names)
    stored = [
        (decode_stamps(rows.stamps[index], rows.stamp_sizes[index]), None)
        for index in range(len(group.views))
    ]
    status, hidden, views = _status(group, count, stored, now_us, keep_expired=keep_expired)
    floats = rows.floats(0, num_floats, step=FRAMED_FLOAT)
    float_mask = np.zeros((count, num_floats), dtype=np.uint8)
    if hidden is not None and num_floats:
        float_mask = status[:, group.float_views]
        floats[hidden[:, group.float_views]] = np.nan
    columns: dict[str, Column] = {}
    for offset, (name, index, feature) in enumerate(group.others):
        vectors = rows.floats(num_floats + offset, len(feature.columns))
        if hidden is not None:
            vectors[hidden[:, index]] = np.nan
        columns[name] = Column(vectors, status[:, index].copy())
    return FeatureRows(
        num_rows=count,
        float_names=group.float_names,
        floats=floats,
        float_mask=float_mask,
        columns=columns,
        views=views,
    )


def _status(
    group: Group,
    count: int,
    stored: Sequence[tuple[Int64s, npt.NDArray[np.bool_] | None]],
    now_us: int,
    *,
    keep_expired: bool,
) -> tuple[Masks, npt.NDArray[np.bool_] | None, dict[str, ViewTimes]]:
    """Give the status ``[N, V]`` of each view, where its values are hidden, and the times.

    Mostly every view of every entity is there, and nothing (``None``) is to be hidden.
    """
    views: dict[str, ViewTimes] = {}
    status = np.zeros((count, len(group.views)), dtype=np.uint8)
    is_whole = True
    for index, (view, (times, missing)) in enumerate(zip(group.views, stored, strict=True)):
        # Events have whole milliseconds: until the next one all is as it was at the last.
        now = now_us // 1000 * 1000 if view.is_streamed else now_us
        oldest_us = now - view.ttl_ms * 1000
        if view.ttl_ms and count and _earliest(times) < oldest_us:
            status[times < oldest_us, index] = Mask.EXPIRED
            is_whole = False
        if missing is not None:
            status[missing, index] = Mask.MISSING
            is_whole = False
        views[view.name] = ViewTimes(status[:, index], times)
    if is_whole:
        return status, None, views
    hidden = status == Mask.MISSING if keep_expired else status != Mask.PRESENT
    return status, hidden, views


def _earliest(times: Int64s) -> int:
    return times.item() if len(times) == 1 else int(times.min())


def _spread(rows: Sequence[Sequence[bytes | None]], group: Group) -> list[list[bytes | None]]:
    """Put what was read in its places, with ``None`` where something is made from state."""
    wide: list[list[bytes | None]] = []
    for row in rows:
        own: list[bytes | None] = [None] * group.width
        for place, value in zip(group.places, row, strict=True):
            own[place] = value
        wide.append(own)
    return wide
