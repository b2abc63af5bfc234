"""Windowed aggregates: the one place that says what the value of a feature at a time is.

Meaning of time. A column of events is cut into tiles of one slide ``s``: an event at ``e`` lies in
tile ``e // s``. The value at time ``t`` of a window ``w`` (a whole number of slides) is the
aggregate of the events with

    e <= t    and    tile start > (t // s) * s - w

which are the ``w / s`` latest tiles, the one that ``t`` lies in among them. The window therefore
spans between ``w - s`` and ``w``, and it falls as well as rises: time alone changes the value.

Two readers of that one definition: this module finalises tiles (``aggregate_state.py``: the stream
keeps them in Redis, and they become values when they are read), and ``event_index.py`` cuts ranges
out of sorted events (training). They agree to the bit, because every value is a whole number of
``QUANTUM`` units in an int64, so that neither order nor grouping changes a sum. ``last`` is the
event with the greatest ``(time, value)``. An empty window gives 0 for every function; the count
beside it tells it apart.

Axes: ``N`` tiles, ``Q`` questions, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from recsys.features import distinct, sessions
from recsys.features import newest as lists
from recsys.features.aggregate_state import MERGE, State
from recsys.features.aggregation import Aggregate
from recsys.features.batch import Float32s, Int64s, Ragged
from recsys.features.event_rows import QUANTUM
from recsys.features.functions import COMPONENTS_OF, SESSION_FUNCTIONS, Component
from recsys.features.tile_ranges import Sums, TileWindows, reduced
from recsys.features.view import View

DECAYED: dict[str, Component] = {"decayed_count": "count", "decayed_sum": "sum"}
"""What of a tile is weighted by its age."""


def window_start_ms(t: Int64s, aggregate: Aggregate) -> Int64s:
    """Give the start of the oldest tile that counts at ``t``: events from there on are in."""
    slide = aggregate.slide_ms
    return (t // slide) * slide - aggregate.window_ms + slide


def value_of(function: str, parts: Mapping[Component, Int64s]) -> Float32s:
    """Turn merged components into the feature's values, float32 of the same shape."""
    if function == "sum":
        return (parts["sum"].astype(np.float64) * QUANTUM).astype(np.float32)
    count = parts["count"]
    if function == "count":
        return count.astype(np.float32)
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
    if not any(a.call.name == "ratio" for a in aggregates):
        return values
    places = {a.name: f for f, a in enumerate(aggregates)}
    for f, aggregate in enumerate(aggregates):
        if aggregate.call.name == "ratio":
            above, below = (
                values[:, places[o]].astype(np.float64) for o in aggregate.call.operands
            )
            ratio = np.divide(above, below, out=np.zeros(len(values)), where=below != 0)
            values[:, f] = ratio.astype(np.float32)
    return values


def finalise(view: View, tiles: State, at_ms: Int64s) -> Float32s:
    """Give the values of ``view.scalar_aggregates`` of entities ``0 … Q - 1`` at ``at_ms``.

    ``[Q, F]``. ``finalise_lists`` gives the others.
    """
    values = np.zeros((len(at_ms), len(view.scalar_aggregates)), dtype=np.float32)
    if tiles.runs is not None or tiles.sets is not None:
        for f, aggregate in enumerate(view.scalar_aggregates):
            name = aggregate.call.name
            if name in SESSION_FUNCTIONS and tiles.runs is not None:
                parts_now = sessions.current(view, tiles.runs, aggregate, at_ms)
                values[:, f] = value_of(name.removeprefix("session_"), parts_now)
            elif name == "count_distinct" and tiles.sets is not None:
                values[:, f] = distinct.sizes(view, tiles.sets, aggregate, at_ms)
    if len(tiles):
        _fill_from_tiles(_windows(view), tiles, at_ms, values)
    return with_ratios(view, values)


def _windows(view: View) -> TileWindows:
    kept: TileWindows | None = view.__dict__.get("_tile_windows")
    if kept is None:
        kept = view.__dict__["_tile_windows"] = TileWindows.of(view)
    return kept


def _fill_from_tiles(windows: TileWindows, tiles: State, at_ms: Int64s, values: Float32s) -> None:
    begin, end = windows.ranges(tiles.owner, tiles.series, tiles.tile, at_ms)
    sums = Sums(tiles.parts, begin, end)
    for name, (places, columns) in windows.columns_of.items():
        if name in DECAYED:
            for place, column in zip(places.tolist(), columns.tolist(), strict=True):
                values[:, column] = _decayed_now(
                    windows.aggregates[place], tiles, begin[:, place], end[:, place], at_ms
                )
            continue
        parts: dict[Component, Int64s] = {}
        for component in COMPONENTS_OF[name]:
            if component in ("count", "sum"):
                parts[component] = sums.of(component, places)
            else:
                parts[component] = _merged(
                    component, tiles.parts[component], begin[:, places], end[:, places]
                )
        values[:, columns] = value_of(name, parts)


def _merged(component: Component, part: Int64s, begin: Int64s, end: Int64s) -> Int64s:
    """Merge a component over ranges of tiles; anything where there are none."""
    if component in MERGE:
        return reduced(MERGE[component], part, begin, end)
    # Tiles of one series are sorted by time, so the last event lies in the last of them.
    place = begin if component.startswith("first") else end - 1
    return part[np.minimum(np.maximum(place, 0), len(part) - 1)]


def _decayed_now(
    aggregate: Aggregate, tiles: State, begin: Int64s, end: Int64s, at_ms: Int64s
) -> Float32s:
    lengths = end - begin
    question = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(question)) + np.repeat(begin - (np.cumsum(lengths) - lengths), lengths)
    age = at_ms[question] // aggregate.slide_ms - tiles.tile[rows]
    part = tiles.parts[DECAYED[aggregate.call.name]][rows]
    return decayed(aggregate, question, age, part, len(at_ms))


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
