"""Windowed aggregates: the one place that says what the value of a feature at a time is.

Meaning of time. A column of events is cut into tiles of one slide ``s``: an event at ``e`` lies in
tile ``e // s``. The value at time ``t`` of a window ``w`` (a whole number of slides) is the
aggregate of the events with

    e <= t    and    tile start > (t // s) * s - w

which are the ``w / s`` latest tiles, the one that ``t`` lies in among them. The window therefore
spans between ``w - s`` and ``w``, and it falls as well as rises: time alone changes the value.

Two readers of that one definition: this module merges tiles (the stream keeps them in Redis and
finalises them when they are read) and ``event_index.py`` cuts ranges out of sorted events
(training). They agree to the bit, because every value is a whole number of ``QUANTUM`` units in an
int64, so that neither order nor grouping changes a sum. ``last`` is the event with the greatest
``(time, value)``. An empty window gives 0 for every function; the count beside it tells it apart.

Axes: ``N`` rows or tiles, ``Q`` questions, ``C`` components of a tile, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Bools, Float32s, Int64s
from recsys.features.plan import Aggregate, Component, Function, View

QUANTUM = 2.0**-16
"""Resolution of an event's value (0.000015). A window's sum is exact while it stays below 1.4e14,
140 events of the greatest value the event schema allows."""

MERGE: dict[Component, np.ufunc] = {
    "count": np.add, "sum": np.add, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
"""How a component of two tiles becomes that of both; ``last`` follows the order of events."""
KINDS = ("interaction", "impression", "feedback")
"""What a row can be: the first part of a column's name."""


def units_of(values: ArrayLike) -> Int64s:
    """Give values as whole numbers of ``QUANTUM``, rounded half to even."""
    return np.rint(np.asarray(values, dtype=np.float64) / QUANTUM).astype(np.int64)


def window_start_ms(t: Int64s, aggregate: Aggregate) -> Int64s:
    """Give the start of the oldest tile that counts at ``t``: events from there on are in."""
    slide = aggregate.slide_ms
    return (t // slide) * slide - aggregate.window_ms + slide


def value_of(function: Function, parts: dict[Component, Int64s]) -> Float32s:
    """Turn merged components into the feature's value, ``[Q]`` float32."""
    count = parts["count"]
    if function == "count":
        return count.astype(np.float32)
    if function == "sum":
        return (parts["sum"].astype(np.float64) * QUANTUM).astype(np.float32)
    if function == "mean":
        total = parts["sum"].astype(np.float64) * QUANTUM
        return (total / np.maximum(count, 1)).astype(np.float32)
    values = parts[function].astype(np.float64) * QUANTUM
    return np.where(count > 0, values, 0.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one kind of entity as columns, ``[N]`` each, in any order."""

    owner: Int64s
    """Entity of the row, 0 … number of entities - 1."""
    time_ms: Int64s
    units: Int64s
    kind: NDArray[np.uint8]
    """Place in ``KINDS``."""
    event_type: NDArray[np.int64]
    """Place in ``types``."""
    types: Sequence[str]

    def select(self, column: str) -> Bools:
        """Give which rows belong to ``column``."""
        kind, _, event_type = column.partition("__")
        mask: Bools = self.kind == KINDS.index(kind)
        if event_type:
            if event_type not in self.types:
                return np.zeros(len(mask), dtype=np.bool_)
            mask &= self.event_type == self.types.index(event_type)
        return mask

    def take(self, rows: NDArray[np.generic], owner: Int64s | None = None) -> Rows:
        """Give some rows, with other owners if wanted (``owner`` is already cut to ``rows``)."""
        return Rows(
            self.owner[rows] if owner is None else owner,
            self.time_ms[rows],
            self.units[rows],
            self.kind[rows],
            self.event_type[rows],
            self.types,
        )


@dataclass(frozen=True, slots=True)
class State:
    """Tiles of many entities, ``[N]`` each, sorted by ``(owner, series, tile)`` and distinct."""

    owner: Int64s
    series: NDArray[np.uint8]
    tile: Int64s
    parts: dict[Component, Int64s]

    def __len__(self) -> int:
        return len(self.owner)


def tile_dtype(view: View) -> np.dtype[np.void]:
    """Give the bytes of one tile of ``view`` as they lie in Redis."""
    fields: list[tuple[str, str]] = [("series", "u1"), ("tile", "<u4")]
    fields += [(c, "<u4" if c == "count" else "<i8") for c in view.components]
    return np.dtype(fields)


def state_of_rows(view: View, rows: Rows) -> State:
    """Cut rows into the tiles of ``view`` (one tile for each row and series; merge them next)."""
    owner, series, tile, units, times = [], [], [], [], []
    for number, s in enumerate(view.series):
        mask = rows.select(s.column)
        if not mask.any():
            continue
        whole = mask.all()
        times.append(rows.time_ms if whole else rows.time_ms[mask])
        owner.append(rows.owner if whole else rows.owner[mask])
        units.append(rows.units if whole else rows.units[mask])
        tile.append(times[-1] // s.slide_ms)
        series.append(np.full(len(times[-1]), number, dtype=np.uint8))
    if not owner:
        return _no_tiles(view)
    value = np.concatenate(units)
    at = np.concatenate(times)
    source = {"count": np.ones(len(value), np.int64), "last_ms": at}
    parts = {c: source.get(c, value) for c in view.components}
    return State(np.concatenate(owner), np.concatenate(series), np.concatenate(tile), parts)


def state_of_blobs(view: View, blobs: Sequence[bytes | None]) -> State:
    """Decode the stored tiles of entities ``0 … len(blobs) - 1``; ``None`` has none.

    Raises:
        FeatureError: when one is not a whole number of tiles.
    """
    dtype = tile_dtype(view)
    lengths = np.fromiter((len(blob) if blob else 0 for blob in blobs), np.int64, len(blobs))
    if (lengths % dtype.itemsize).any():
        raise FeatureError(
            f'state of view "{view.name}": wanted tiles of {dtype.itemsize} bytes, found a length '
            f"of {lengths[lengths % dtype.itemsize > 0][0]}; run `recsys backfill`"
        )
    records = np.frombuffer(b"".join([blob for blob in blobs if blob]), dtype=dtype)
    owner = np.repeat(np.arange(len(blobs), dtype=np.int64), lengths // dtype.itemsize)
    parts: dict[Component, Int64s] = {c: records[c].astype(np.int64) for c in view.components}
    return State(owner, records["series"], records["tile"].astype(np.int64), parts)


def blobs_of_state(view: View, tiles: State, num_owners: int) -> list[bytes]:
    """Encode tiles, one blob for each entity."""
    records = np.empty(len(tiles), dtype=tile_dtype(view))
    records["series"] = tiles.series
    records["tile"] = tiles.tile
    for component, values in tiles.parts.items():
        records[component] = values
    return split_records(records, tiles.owner, num_owners)


def split_records(
    records: NDArray[np.void], owner: Int64s, num_owners: int
) -> list[bytes]:  # fmt: skip
    """Cut records sorted by owner into one blob for each owner."""
    data = records.tobytes()
    ends = (np.searchsorted(owner, np.arange(num_owners + 1)) * records.dtype.itemsize).tolist()
    return [data[ends[i] : ends[i + 1]] for i in range(num_owners)]


def merge(view: View, *many: State) -> State:
    """Merge tiles of the same place into one. Order and grouping do not change the answer."""
    owner = np.concatenate([t.owner for t in many])
    if not len(owner):
        return _no_tiles(view)
    series = np.concatenate([t.series for t in many])
    tile = np.concatenate([t.tile for t in many])
    parts = {c: np.concatenate([t.parts[c] for t in many]) for c in view.components}
    keys: tuple[NDArray[np.generic], ...] = (tile, series, owner)
    if "last" in parts:
        keys = (parts["last"], parts["last_ms"], *keys)
    order = np.lexsort(keys)
    owner, series, tile = owner[order], series[order], tile[order]
    first = np.empty(len(order), dtype=np.bool_)
    first[0] = True
    np.not_equal(owner[1:], owner[:-1], out=first[1:])
    first[1:] |= series[1:] != series[:-1]
    first[1:] |= tile[1:] != tile[:-1]
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(order)) - 1
    merged: dict[Component, Int64s] = {}
    for component, values in parts.items():
        values = values[order]
        if component in MERGE:
            merged[component] = MERGE[component].reduceat(values, starts)
        else:  # sorted by (last_ms, last) within a tile: its last row is the answer
            merged[component] = values[ends]
    return State(owner[starts], series[starts], tile[starts], merged)


def trim(view: View, tiles: State, newest_ms: Int64s) -> State:
    """Drop tiles no window can reach from ``newest_ms`` (``[owners]``) on."""
    slide, span = _slides_and_spans(view)
    keep = tiles.tile > newest_ms[tiles.owner] // slide[tiles.series] - span[tiles.series]
    if keep.all():
        return tiles
    parts = {c: values[keep] for c, values in tiles.parts.items()}
    return State(tiles.owner[keep], tiles.series[keep], tiles.tile[keep], parts)


def finalise(view: View, tiles: State, at_ms: Int64s) -> Float32s:
    """Give the values of all aggregates of entities ``0 … Q - 1`` at ``at_ms``, ``[Q, F]``."""
    values = np.zeros((len(at_ms), len(view.aggregates)), dtype=np.float32)
    if not len(tiles):
        return values
    numbers = {(s.column, s.slide_ms): n for n, s in enumerate(view.series)}
    for f, aggregate in enumerate(view.aggregates):
        number = numbers[aggregate.column, aggregate.slide_ms]
        newest = at_ms // aggregate.slide_ms
        age = newest[tiles.owner] - tiles.tile
        mask = (tiles.series == number) & (age >= 0) & (age < aggregate.num_tiles)
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        owner = tiles.owner[rows]
        starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
        ends = np.append(starts[1:], len(rows)) - 1
        parts: dict[Component, Int64s] = {}
        for component, all_parts in tiles.parts.items():
            part = all_parts[rows]
            # Tiles of one series are sorted by time, so the last event lies in the last of them.
            merge_with = MERGE.get(component)
            parts[component] = merge_with.reduceat(part, starts) if merge_with else part[ends]
        values[owner[starts], f] = value_of(aggregate.function, parts)
    return values


def _no_tiles(view: View) -> State:
    none = np.empty(0, dtype=np.int64)
    return State(none, none.astype(np.uint8), none, dict.fromkeys(view.components, none))


def _slides_and_spans(view: View) -> tuple[Int64s, Int64s]:
    series = view.series
    return (
        np.array([s.slide_ms for s in series], dtype=np.int64),
        np.array([s.num_tiles for s in series], dtype=np.int64),
    )
