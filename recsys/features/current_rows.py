"""Rows of views that are made from state when they are read.

The stream writes an entity's state when an event of it arrives. Values it stored beside it would
stay when time goes by, while a window falls. So whoever reads such a view reads the state, and the
features are finalised at the moment of reading, with the stream's own kernel, and take the places
of the stored ones, if the view stores any, as the bytes the stream would write then.

``N`` rows of one hash each, ``F`` scalar aggregates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recsys.features.aggregate_state import state_of_blobs
from recsys.features.aggregates import finalise, finalise_lists
from recsys.features.batch import Int64s
from recsys.features.framing import NEVER_MS, unframe
from recsys.features.history_values import encoded_lists
from recsys.features.time_layout import decode_timestamp, encode_timestamps
from recsys.features.view import View
from recsys.features.view_updates import encode_lists

Row = Sequence[bytes | None]
Columns = list[tuple[int, list[bytes]]]
"""Places in the rows, and what stands there in each row."""
_FLOAT32_TAG, _FLOAT32_BYTES = 0x35, 5


class Places(NamedTuple):
    """Where a view that is made when read lies in a row that was read."""

    view: View
    features: Mapping[str, int]
    """Place of each feature that was read."""
    event_time: int
    state: int


def current(rows: Sequence[Row], places: Sequence[Places], now_ms: int) -> Sequence[Row]:
    """Give the rows as the stream would write them at ``now_ms``.

    A row without a state stays as it is stored, and so does one whose stored event time is later
    than the state's newest event: somebody else wrote it. TTLs are left to the reader, who finds
    the time of the newest event in its place.

    Raises:
        FeatureError: when a state is cut off.
    """
    for place in places:
        rows = _current(rows, place, now_ms)
    return rows


def _current(rows: Sequence[Row], places: Places, now_ms: int) -> Sequence[Row]:
    blobs = [row[places.state] for row in rows]
    if not any(blobs):
        return rows
    framed = unframe(blobs)
    stamps = [row[places.event_time] for row in rows]
    stored_ms = np.array([NEVER_MS if s is None else decode_timestamp(s) for s in stamps])
    known = np.flatnonzero((framed.newest_ms > NEVER_MS) & (framed.newest_ms >= stored_ms))
    framed = framed.take(known)
    columns: Columns = [(places.event_time, encode_timestamps(framed.newest_ms))]
    made = _aggregates if places.view.aggregates else _history
    columns += made(places, framed.payloads, np.full(len(known), now_ms, dtype=np.int64))
    changed = list(rows)
    at = known.tolist()
    for n in at:
        changed[n] = list(rows[n])
    for place, column in columns:
        for n, value in zip(at, column, strict=True):
            changed[n][place] = value  # type: ignore[index]
    return changed


def _aggregates(places: Places, payloads: Sequence[bytes], now: Int64s) -> Columns:
    view = places.view
    state = state_of_blobs(view, payloads)
    columns: Columns = []
    scalars = [a.name for a in view.scalar_aggregates]
    wanted = [n for n, name in enumerate(scalars) if name in places.features]
    if wanted:
        values = finalise(view, state, now)[:, wanted].T.astype("<f4")
        cells = np.empty((len(wanted), len(now), _FLOAT32_BYTES), dtype=np.uint8)
        cells[:, :, 0] = _FLOAT32_TAG
        cells[:, :, 1:] = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 4)
        encoded = cells.view(f"V{_FLOAT32_BYTES}")[:, :, 0].tolist()
        columns += [
            (places.features[scalars[n]], column) for n, column in zip(wanted, encoded, strict=True)
        ]
    if any(a.name in places.features for a in view.list_aggregates):
        for name, lists in finalise_lists(view, state, now).items():
            if name in places.features:
                columns.append((places.features[name], encode_lists(view.feature(name), lists)))
    return columns


def _history(places: Places, payloads: Sequence[bytes], now: Int64s) -> Columns:
    """Give the lists as of the newest event; time alone does not change them."""
    made = encoded_lists(payloads)
    return [(places.features[n], column) for n, column in made.items() if n in places.features]
