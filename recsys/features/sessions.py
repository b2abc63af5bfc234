"""Session windows: the events of the run of activity that an entity is in at this moment.

Definition. Of the events that a sliding window of ``time_window`` counts at *t*
(``aggregates.py``), take the latest and go backwards while two neighbours lie less than ``gap``
apart. If the latest is less than ``gap`` before *t*, the session is open and its value is the
aggregate of these events; else it is 0. A session longer than its window is counted from where the
window begins.

State: the runs of each tile (start, end, count, sum). Runs that a late event bridges become one;
those of neighbouring tiles are joined at reading time, so that a tile no window reaches can be
dropped without changing any answer. An entity keeps at most ``window / gap + window / slide`` runs
of a series, whatever it does.

Axes: ``N`` runs, ``Q`` questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregation import Aggregate
from recsys.features.batch import Bools, Int64s
from recsys.features.functions import Component
from recsys.features.records import join_records, split_records, starts_of_groups
from recsys.features.view import View

RUN_DTYPE = np.dtype(
    [("series", "u1"), ("start_ms", "<i8"), ("length_ms", "<u4"), ("count", "<u4"), ("sum", "<i8")]
)


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of events, ``[N]`` each, sorted by ``(owner, series, start)`` once merged."""

    owner: Int64s
    series: NDArray[np.uint8]
    start_ms: Int64s
    end_ms: Int64s
    count: Int64s
    sum: Int64s

    def take(self, rows: NDArray[np.generic]) -> Runs:
        """Give some of them."""
        return Runs(
            self.owner[rows], self.series[rows], self.start_ms[rows], self.end_ms[rows],
            self.count[rows], self.sum[rows],
        )  # fmt: skip


def of_events(number: int, owner: Int64s, time_ms: Int64s, units: Int64s) -> Runs:
    """Give a run for each event of series ``number``."""
    ones = np.ones(len(owner), dtype=np.int64)
    return Runs(owner, np.full(len(owner), number, np.uint8), time_ms, time_ms, ones, units)


def of_blobs(view: View, blobs: Sequence[bytes]) -> Runs:
    """Decode stored runs. Raises FeatureError when they are damaged."""
    owner, r = join_records(blobs, RUN_DTYPE, f'sessions of view "{view.name}"')
    start = r["start_ms"].astype(np.int64)
    return Runs(
        owner, r["series"], start, start + r["length_ms"], r["count"].astype(np.int64),
        r["sum"].astype(np.int64),
    )  # fmt: skip


def blobs_of(runs: Runs, num_owners: int) -> list[bytes]:
    """Encode runs, one blob for each owner."""
    records = np.empty(len(runs.owner), dtype=RUN_DTYPE)
    records["series"], records["start_ms"] = runs.series, runs.start_ms
    records["length_ms"] = runs.end_ms - runs.start_ms
    records["count"], records["sum"] = runs.count, runs.sum
    return split_records(records, runs.owner, num_owners)


def merge(view: View, many: Sequence[Runs]) -> Runs:
    """Join the runs of one tile that lie less than the gap apart. Order does not matter."""
    fields = ("owner", "series", "start_ms", "end_ms", "count", "sum")
    runs = Runs(*(np.concatenate([getattr(r, f) for r in many]) for f in fields))
    if not len(runs.owner):
        return runs
    runs = runs.take(np.lexsort((runs.start_ms, runs.series, runs.owner)))
    slide = np.array([s.slide_ms for s in view.sessions], dtype=np.int64)
    gap = np.array([s.gap_ms for s in view.sessions], dtype=np.int64)
    tile = runs.start_ms // slide[runs.series]
    places = np.zeros(len(tile), dtype=np.int64)
    places[starts_of_groups(runs.owner, runs.series, tile)] = 1
    place = np.cumsum(places)
    # The latest end so far within a tile; a tile's own offset keeps tiles apart.
    within = runs.end_ms - tile * slide[runs.series]
    span = int(slide.max()) + 1
    reached = np.maximum.accumulate(place * span + within) - place * span
    starts = runs.start_ms - tile * slide[runs.series]
    apart = places.astype(np.bool_)
    apart[1:] |= starts[1:] - reached[:-1] >= gap[runs.series[1:]]
    first = np.flatnonzero(apart)
    return Runs(
        runs.owner[first],
        runs.series[first],
        runs.start_ms[first],
        np.maximum.reduceat(runs.end_ms, first),
        np.add.reduceat(runs.count, first),
        np.add.reduceat(runs.sum, first),
    )


def trim(view: View, runs: Runs, newest_ms: Int64s) -> Runs:
    """Drop runs no window can reach from ``newest_ms`` (``[owners]``) on."""
    slide = np.array([s.slide_ms for s in view.sessions], dtype=np.int64)[runs.series]
    span = np.array([s.num_tiles for s in view.sessions], dtype=np.int64)[runs.series]
    return runs.take(runs.start_ms // slide > newest_ms[runs.owner] // slide - span)


def current(view: View, runs: Runs, aggregate: Aggregate, at_ms: Int64s) -> dict[Component, Int64s]:
    """Give count and sum of the open session of entities ``0 … Q - 1`` at ``at_ms``, ``[Q]``."""
    gap, slide = aggregate.call.duration_ms, aggregate.slide_ms
    keys = [(s.column, s.slide_ms, s.gap_ms) for s in view.sessions]
    number = keys.index((aggregate.column, slide, gap))
    age = at_ms[runs.owner] // slide - runs.start_ms // slide
    runs = runs.take((runs.series == number) & (age >= 0) & (age < aggregate.num_tiles))
    parts: tuple[Component, ...] = ("count", "sum")
    found = {part: np.zeros(len(at_ms), dtype=np.int64) for part in parts}
    if not len(runs.owner):
        return found
    apart: Bools = np.append(True, runs.owner[1:] != runs.owner[:-1])
    apart[1:] |= runs.start_ms[1:] - runs.end_ms[:-1] >= gap
    first = np.flatnonzero(apart)
    last = np.append(first[1:], len(apart)) - 1
    owner, end = runs.owner[first], runs.end_ms[last]
    is_open = np.append(owner[1:] != owner[:-1], True) & (at_ms[owner] - end < gap)
    for part in found:
        found[part][owner[is_open]] = np.add.reduceat(getattr(runs, part), first)[is_open]
    return found
