"""When values change by time alone: the first moment at which a window drops or gains a tile.

Between two such moments, and while nothing is written, what was finalised stays true to the bit
(``tests/features/test_next_change.py``). A moment may be given too early, never too late.

Axes: ``N`` tiles, ``Q`` entities.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from recsys.features.aggregate_state import State
from recsys.features.aggregates import DECAYED
from recsys.features.aggregation import Aggregate
from recsys.features.batch import Int64s
from recsys.features.framing import NEVER_MS
from recsys.features.functions import COMPONENTS_OF, SESSION_FUNCTIONS
from recsys.features.view import View

NO_CHANGE_MS = int(np.iinfo(np.int64).max)
"""Stands for the moment of a change that does not come."""


class NextChange:
    """Tells it of the scalar aggregates of one view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._tiles = [
            (
                s.slide_ms,
                _windows(view, s.column, s.slide_ms, COMPONENTS_OF),
                max(_windows(view, s.column, s.slide_ms, DECAYED), default=0),
            )
            for s in view.series
        ]
        self._sets = [
            (s.slide_ms, _windows(view, s.column, s.slide_ms, ("count_distinct",)))
            for s in view.sketches
        ]
        self._sessions = [
            (s.slide_ms, s.gap_ms, _windows(view, s.column, s.slide_ms, SESSION_FUNCTIONS))
            for s in view.sessions
        ]

    def after(self, at_ms: Int64s, state: State, newest_ms: Int64s) -> Int64s:
        """Give ``[Q]``: the first moment after ``at_ms`` at which a value may be another.

        ``state`` is what ``finalise`` was given at ``at_ms``; ``newest_ms`` ``[Q]`` is the time of
        each entity's newest event, from which the view's TTL counts; it is not looked at where the
        TTL can hide nothing (``view.expires``).
        """
        due = np.full(len(at_ms), NO_CHANGE_MS, dtype=np.int64)
        if len(state):
            owner = state.owner
            starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
            moments = np.minimum.reduceat(self._of_tiles(state, at_ms), starts)
            due[owner[starts]] = moments
        if state.sets is not None:
            for place in (state.sets.small, state.sets.large):
                for n, (slide_ms, windows) in enumerate(self._sets):
                    mine = np.flatnonzero(place.series == n)
                    owner = place.owner[mine]
                    moments = _edges(place.tile[mine], slide_ms, windows, at_ms[owner])
                    np.minimum.at(due, owner, moments)
        if state.runs is not None:
            runs = state.runs
            for n, (slide_ms, gap_ms, windows) in enumerate(self._sessions):
                mine = np.flatnonzero(runs.series == n)
                owner = runs.owner[mine]
                moments = _edges(runs.start_ms[mine] // slide_ms, slide_ms, windows, at_ms[owner])
                closes = runs.end_ms[mine] + gap_ms
                closes = np.where(closes > at_ms[owner], closes, NO_CHANGE_MS)
                np.minimum.at(due, owner, np.minimum(moments, closes))
        if self._view.expires:
            gone = newest_ms + self._view.ttl_ms + 1
            counts = (newest_ms > NEVER_MS) & (gone > at_ms)
            due = np.where(counts, np.minimum(due, gone), due)
        return due

    def _of_tiles(self, state: State, at_ms: Int64s) -> Int64s:
        """Give ``[N]``: when each tile next enters a window, leaves one or counts for less."""
        moments = np.full(len(state), NO_CHANGE_MS, dtype=np.int64)
        for n, (slide_ms, windows, decays) in enumerate(self._tiles):
            mine = np.flatnonzero(state.series == n)
            tile, at = state.tile[mine], at_ms[state.owner[mine]]
            found = _edges(tile, slide_ms, windows, at)
            if decays:
                newest = at // slide_ms
                counts = (tile <= newest) & (newest < tile + decays)
                found = np.where(counts, np.minimum(found, (newest + 1) * slide_ms), found)
            moments[mine] = found
        return moments


def _windows(view: View, column: str, slide_ms: int, functions: Container[str]) -> list[int]:
    """Give the lengths, in tiles, of the windows over one series, longest first."""

    def counts(a: Aggregate) -> bool:
        return a.column == column and a.slide_ms == slide_ms and a.call.name in functions

    return sorted({a.num_tiles for a in view.aggregates if counts(a)}, reverse=True)


def _edges(tile: Int64s, slide_ms: int, windows: list[int], at_ms: Int64s) -> Int64s:
    """Give when each tile enters or leaves the next of the windows; never once it is past all."""
    age = at_ms // slide_ms - tile
    moments = np.full(len(tile), NO_CHANGE_MS, dtype=np.int64)
    for length in windows:
        np.copyto(moments, (tile + length) * slide_ms, where=age < length)
    np.copyto(moments, tile * slide_ms, where=age < 0)
    return moments
