"""State of aggregates: what is kept of an entity's events so that any later value can be told.

Tiles, each one slide of a column's events; where a view asks for them, runs of events
(``sessions.py``), sets (``distinct.py``) and newest events (``newest.py``). State is made of rows,
or of the bytes in Redis; it is merged in any order and grouping, trimmed, and written as bytes
again. ``aggregates.py`` says what values it holds.

Axes: ``N`` rows or tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features import distinct, sessions, tile_codec
from recsys.features import newest as lists
from recsys.features.batch import Int64s
from recsys.features.distinct import Sets
from recsys.features.event_rows import Rows
from recsys.features.functions import Component
from recsys.features.newest import Newest
from recsys.features.records import join_sections, split_sections
from recsys.features.sessions import Runs
from recsys.features.view import View

MERGE: dict[Component, np.ufunc] = {
    "count": np.add, "sum": np.add, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
"""How a component of two tiles becomes that of both; ``last`` follows the order of events."""
_NUM_SECTIONS = 5
"""Of the blob of a view that keeps more than tiles: those, runs, small and large sets, lists."""


@dataclass(frozen=True, slots=True)
class State:
    """State of many entities: tiles, ``[N]`` each, sorted by ``(owner, series, tile)``."""

    owner: Int64s
    series: NDArray[np.uint8]
    tile: Int64s
    parts: dict[Component, Int64s]
    runs: Runs | None = None
    """What session windows are read from; ``None`` where the view has none, as with the others."""
    sets: Sets | None = None
    newest: Newest | None = None

    def __len__(self) -> int:
        return len(self.owner)


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
    extra = _extra_of_rows(view, rows)
    if not owner:
        return replace(_no_tiles(view), **extra)
    value = np.concatenate(units)
    at = np.concatenate(times)
    source = {"count": np.ones(len(value), np.int64), "last_ms": at, "first_ms": at}
    parts = {c: source.get(c, value) for c in view.components}
    return State(
        np.concatenate(owner), np.concatenate(series), np.concatenate(tile), parts, **extra
    )  # fmt: skip


def state_of_blobs(view: View, blobs: Sequence[bytes | None]) -> State:
    """Decode the stored tiles of entities ``0 … len(blobs) - 1``; ``None`` has none.

    Raises:
        FeatureError: when one is not a whole number of tiles.
    """
    if not _is_rich(view):
        return State(*tile_codec.decode(view, blobs))
    tiles, runs, small, large, entries = split_sections(
        blobs, _NUM_SECTIONS, f'state of view "{view.name}"'
    )
    return State(
        *tile_codec.decode(view, tiles),
        sessions.of_blobs(view, runs) if view.sessions else None,
        distinct.of_blobs(view, small, large) if view.sketches else None,
        lists.of_blobs(view, entries) if view.lists else None,
    )


def blobs_of_state(view: View, tiles: State, num_owners: int) -> list[bytes]:
    """Encode state, one blob for each entity."""
    encoded = tile_codec.encode(
        view, tiles.owner, tiles.series, tiles.tile, tiles.parts, num_owners
    )  # fmt: skip
    if not _is_rich(view):
        return encoded
    none = [b""] * num_owners
    return join_sections(
        [
            encoded,
            sessions.blobs_of(tiles.runs, num_owners) if tiles.runs else none,
            *(distinct.blobs_of(tiles.sets, num_owners) if tiles.sets else (none, none)),
            lists.blobs_of(tiles.newest, num_owners) if tiles.newest else none,
        ]
    )


def merge(view: View, *many: State) -> State:
    """Merge states of the same entities. Order and grouping do not change the answer."""
    tiles = _merge_tiles(view, many)
    if not _is_rich(view):
        return tiles
    runs = [state.runs for state in many if state.runs is not None]
    sets = [state.sets for state in many if state.sets is not None]
    newest = [state.newest for state in many if state.newest is not None]
    return replace(
        tiles,
        runs=sessions.merge(view, runs) if runs else None,
        sets=distinct.merge(sets) if sets else None,
        newest=lists.merge(view, newest) if newest else None,
    )


def _merge_tiles(view: View, many: Sequence[State]) -> State:
    owner = np.concatenate([t.owner for t in many])
    if not len(owner):
        return _no_tiles(view)
    series = np.concatenate([t.series for t in many])
    tile = np.concatenate([t.tile for t in many])
    parts = {c: np.concatenate([t.parts[c] for t in many]) for c in view.components}
    place = _place_of_each(len(view.series), owner, series, tile)
    if "last" in parts:
        order = np.lexsort((parts["last"], parts["last_ms"], place))
    else:
        order = np.argsort(place)  # rows of one tile in any order: all that is left commutes
    sorted_place = place[order]
    first = np.empty(len(order), dtype=np.bool_)
    first[0] = True
    np.not_equal(sorted_place[1:], sorted_place[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(order)) - 1
    merged: dict[Component, Int64s] = {}
    for component, values in parts.items():
        if component in ("first_ms", "first"):
            continue
        values = values[order]
        if component in MERGE:
            merged[component] = MERGE[component].reduceat(values, starts)
        else:  # sorted by (last_ms, last) within a tile: its last row is the answer
            merged[component] = values[ends]
    if "first" in parts:  # the least (first_ms, first) of each tile, by an order of its own
        by_first = np.lexsort((parts["first"], parts["first_ms"], place))[starts]
        merged["first_ms"] = parts["first_ms"][by_first]
        merged["first"] = parts["first"][by_first]
    kept = order[starts]
    return State(owner[kept], series[kept], tile[kept], merged)


def _place_of_each(
    num_series: int, owner: Int64s, series: NDArray[np.uint8], tile: Int64s
) -> Int64s:
    """Give numbers that sort as ``(owner, series, tile)``; sorting one costs a third of three."""
    oldest = tile.min()
    span = int(tile.max() - oldest) + 1
    if (int(owner.max()) + 1) * num_series * span < 1 << 63:
        place: Int64s = (owner * num_series + series) * span + (tile - oldest)
        return place
    _, rank = np.unique(np.stack([owner, series, tile]), axis=1, return_inverse=True)
    return rank.reshape(-1).astype(np.int64)


def trim(view: View, tiles: State, newest_ms: Int64s) -> State:
    """Drop what no window can reach from ``newest_ms`` (``[owners]``) on."""
    if _is_rich(view):
        tiles = replace(
            tiles,
            runs=sessions.trim(view, tiles.runs, newest_ms) if tiles.runs else None,
            sets=distinct.trim(view, tiles.sets, newest_ms) if tiles.sets else None,
            newest=lists.trim(view, tiles.newest, newest_ms) if tiles.newest else None,
        )
    if not len(tiles):
        return tiles
    slide, span = _slides_and_spans(view)
    keep = tiles.tile > newest_ms[tiles.owner] // slide[tiles.series] - span[tiles.series]
    if keep.all():
        return tiles
    parts = {c: values[keep] for c, values in tiles.parts.items()}
    return replace(
        tiles, owner=tiles.owner[keep], series=tiles.series[keep], tile=tiles.tile[keep],
        parts=parts,
    )  # fmt: skip


def _is_rich(view: View) -> bool:
    """Whether a view keeps more than tiles."""
    return bool(view.sessions or view.sketches or view.lists)


def _extra_of_rows(view: View, rows: Rows) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if not _is_rich(view):
        return extra

    def events_of(column: str) -> tuple[Int64s, Int64s, Int64s]:
        mask = rows.select(column)
        return rows.owner[mask], rows.time_ms[mask], rows.identity(column)[mask]

    if view.sessions:
        runs = [sessions.of_events(n, *events_of(s.column)) for n, s in enumerate(view.sessions)]
        extra["runs"] = sessions.merge(view, runs)
    if view.sketches:
        extra["sets"] = distinct.merge(
            [
                distinct.of_events(n, s.slide_ms, *events_of(s.column))
                for n, s in enumerate(view.sketches)
            ]
        )
    if view.lists:
        entries = [lists.of_events(n, *events_of(s.column)) for n, s in enumerate(view.lists)]
        extra["newest"] = lists.merge(view, entries)
    return extra


def _no_tiles(view: View) -> State:
    none = np.empty(0, dtype=np.int64)
    return State(none, none.astype(np.uint8), none, dict.fromkeys(view.components, none))


def _slides_and_spans(view: View) -> tuple[Int64s, Int64s]:
    series = view.series
    return (
        np.array([s.slide_ms for s in series], dtype=np.int64),
        np.array([s.num_tiles for s in series], dtype=np.int64),
    )
