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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import FeatureError
from recsys.features import distinct, sessions, tile_codec
from recsys.features import newest as lists
from recsys.features.aggregation import Aggregate
from recsys.features.batch import Bools, Float32s, Int64s, Ragged
from recsys.features.distinct import Sets
from recsys.features.functions import COMPONENTS_OF, SESSION_FUNCTIONS, Component
from recsys.features.newest import Newest
from recsys.features.records import join_sections, split_sections
from recsys.features.sessions import Runs
from recsys.features.view import View

QUANTUM = 2.0**-16
"""Resolution of an event's value (0.000015). A window's sum is exact while it stays below 1.4e14,
140 events of the greatest value the event schema allows."""

DECAYED: dict[str, Component] = {"decayed_count": "count", "decayed_sum": "sum"}
"""What of a tile is weighted by its age."""
MERGE: dict[Component, np.ufunc] = {
    "count": np.add, "sum": np.add, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
"""How a component of two tiles becomes that of both; ``last`` follows the order of events."""
_NUM_SECTIONS = 5
"""Of the blob of a view that keeps more than tiles: those, runs, small and large sets, lists."""
KINDS = ("interaction", "impression", "feedback")
"""What a row can be: the first part of a column's name."""


def units_of(values: ArrayLike) -> Int64s:
    """Give values as whole numbers of ``QUANTUM``, rounded half to even."""
    return np.rint(np.asarray(values, dtype=np.float64) / QUANTUM).astype(np.int64)


def window_start_ms(t: Int64s, aggregate: Aggregate) -> Int64s:
    """Give the start of the oldest tile that counts at ``t``: events from there on are in."""
    slide = aggregate.slide_ms
    return (t // slide) * slide - aggregate.window_ms + slide


def value_of(function: str, parts: Mapping[Component, Int64s]) -> Float32s:
    """Turn merged components into the feature's value, ``[Q]`` float32."""
    count = parts["count"]
    if function == "count":
        return count.astype(np.float32)
    if function == "sum":
        return (parts["sum"].astype(np.float64) * QUANTUM).astype(np.float32)
    if function == "mean":
        total = parts["sum"].astype(np.float64) * QUANTUM
        return (total / np.maximum(count, 1)).astype(np.float32)
    values = parts[cast(Component, function)].astype(np.float64) * QUANTUM
    return np.where(count > 0, values, 0.0).astype(np.float32)


def decayed(
    aggregate: Aggregate, question: Int64s, age: Int64s, part: Int64s, num_questions: int
) -> Float32s:
    """Give ``[Q]`` sums of tiles (oldest first for each question), each halved once a half-life.

    The weight of a tile depends on its age in whole slides. ``bincount`` adds in the order of its
    input, one after the other, so the float64 sum is the same for every reader.
    """
    slide, half_life = aggregate.slide_ms, aggregate.call.duration_ms
    weights = np.array([2.0 ** (-(a * slide) / half_life) for a in range(aggregate.num_tiles)])
    amount = part.astype(np.float64)
    if aggregate.call.name == "decayed_sum":
        amount *= QUANTUM
    return np.bincount(question, amount * weights[age], num_questions).astype(np.float32)


def with_ratios(view: View, values: Float32s) -> Float32s:
    """Fill in the ratios, made of other columns of ``values`` (``[Q, F]``); x / 0 is 0."""
    aggregates = view.scalar_aggregates
    places = {a.name: f for f, a in enumerate(aggregates)}
    for f, aggregate in enumerate(aggregates):
        if aggregate.call.name == "ratio":
            above, below = (
                values[:, places[o]].astype(np.float64) for o in aggregate.call.operands
            )
            ratio = np.divide(above, below, out=np.zeros(len(values)), where=below != 0)
            values[:, f] = ratio.astype(np.float32)
    return values


NO_CATEGORY = 0
"""Identity hash of the empty string."""


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
    item: Int64s | None = None
    """Identity hash of the item of the event; wanted by columns with the field ``item_id``."""
    category: Int64s | None = None
    """Identity hash of its category, ``NO_CATEGORY`` where it has none; wanted by columns with the
    field ``category``."""

    def identity(self, column: str) -> Int64s:
        """Give what ``column`` takes of each event: a hash, or its value in units.

        Raises:
            FeatureError: when whoever made these rows did not give it.
        """
        field = column.partition(".")[2]
        if not field:
            return self.units
        found = self.item if field == "item_id" else self.category
        if found is None:
            raise FeatureError(f'column "{column}": wanted rows with the hashes of {field}')
        return found

    def select(self, column: str) -> Bools:
        """Give which rows belong to ``column``."""
        kind, _, event_type = column.partition(".")[0].partition("__")
        mask: Bools = self.kind == KINDS.index(kind)
        if event_type:
            if event_type not in self.types:
                return np.zeros(len(mask), dtype=np.bool_)
            mask &= self.event_type == self.types.index(event_type)
        if column.endswith(".category"):
            mask &= self.identity(column) != NO_CATEGORY  # it names nothing, so its cell is null
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
            None if self.item is None else self.item[rows],
            None if self.category is None else self.category[rows],
        )


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


def finalise(view: View, tiles: State, at_ms: Int64s) -> Float32s:
    """Give the values of ``view.scalar_aggregates`` of entities ``0 … Q - 1`` at ``at_ms``.

    ``[Q, F]``. ``finalise_lists`` gives the others.
    """
    values = np.zeros((len(at_ms), len(view.scalar_aggregates)), dtype=np.float32)
    for f, aggregate in enumerate(view.scalar_aggregates):
        name = aggregate.call.name
        if name in SESSION_FUNCTIONS and tiles.runs is not None:
            parts_now = sessions.current(view, tiles.runs, aggregate, at_ms)
            values[:, f] = value_of(name.removeprefix("session_"), parts_now)
        elif name == "count_distinct" and tiles.sets is not None:
            values[:, f] = distinct.sizes(view, tiles.sets, aggregate, at_ms)
    if not len(tiles):
        return with_ratios(view, values)
    numbers = {(s.column, s.slide_ms): n for n, s in enumerate(view.series)}
    for f, aggregate in enumerate(view.scalar_aggregates):
        call = aggregate.call
        if call.name not in COMPONENTS_OF:
            continue
        number = numbers[aggregate.column, aggregate.slide_ms]
        newest = at_ms // aggregate.slide_ms
        age = newest[tiles.owner] - tiles.tile
        mask = (tiles.series == number) & (age >= 0) & (age < aggregate.num_tiles)
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        owner = tiles.owner[rows]
        if call.name in DECAYED:
            part = tiles.parts[DECAYED[call.name]][rows]
            values[:, f] = decayed(aggregate, owner, age[rows], part, len(at_ms))
            continue
        starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
        ends = np.append(starts[1:], len(rows)) - 1
        parts: dict[Component, Int64s] = {}
        for component, all_parts in tiles.parts.items():
            part = all_parts[rows]
            # Tiles of one series are sorted by time, so the last event lies in the last of them.
            merge_with = MERGE.get(component)
            if merge_with:
                parts[component] = merge_with.reduceat(part, starts)
            else:
                parts[component] = part[starts if component.startswith("first") else ends]
        values[owner[starts], f] = value_of(call.name, parts)
    return with_ratios(view, values)


def finalise_lists(view: View, state: State, at_ms: Int64s) -> dict[str, Ragged]:
    """Give the lists of entities ``0 … Q - 1`` at ``at_ms``, by the name of the aggregate.

    Rows are least recent first: int64 hashes where the column has a field, else float32 values.
    """
    none = Ragged(np.empty(0, dtype=np.int64), np.zeros(len(at_ms) + 1, dtype=np.int64))
    found: dict[str, Ragged] = {}
    for a in view.list_aggregates:
        ragged = none if state.newest is None else lists.lists(view, state.newest, a, at_ms)
        if not a.field:
            values = (ragged.values.astype(np.float64) * QUANTUM).astype(np.float32)
            ragged = Ragged(values, ragged.offsets)
        found[a.name] = ragged
    return found


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
