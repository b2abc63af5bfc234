"""What the log had received by some moment, of what happened by another.

An event may happen before a moment and reach the log after it. Most questions have no such event,
and are answered from the index of everything; those that have one are answered from the rows that
were known, each question with rows of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.features.batch import Bools, Int64s
from recsys.features.event_index import EventIndex
from recsys.features.event_rows import Rows
from recsys.features.view import View

_CHUNK = 2_000_000
"""Rows gathered in one step: bounds memory to some 200 MB whatever is asked."""


class Received:
    """Rows of one view by (owner, time), with when each was received."""

    def __init__(self, view: View, rows: Rows, known_ms: Int64s) -> None:
        self._reach_ms = max(a.window_ms for a in view.aggregates)
        self._rows = rows
        self._known_ms = known_ms
        self._index: EventIndex | None = None

    def by_question(
        self, owner: Int64s, t: Int64s, known_by_ms: Int64s
    ) -> Iterator[tuple[Int64s, Rows]]:
        """Give the questions that an event not known yet would have a part in.

        In parts: the places of the questions, and the rows known by then that their windows reach,
        whose owner is the place among these.
        """
        if not len(self._rows.owner):
            return
        index = self._sorted()
        end = index.position(owner, t, inclusive=True)
        begin = np.minimum(index.position(owner, t - self._reach_ms, inclusive=True), end)
        late = np.flatnonzero(self._latest_known(begin, end) > known_by_ms)
        bounds = np.concatenate([[0], np.cumsum((end - begin)[late])])
        at = 0
        while at < len(late):
            stop = int(np.searchsorted(bounds, bounds[at] + _CHUNK, side="right")) - 1
            stop = max(stop, at + 1)
            some = late[at:stop]
            sizes = (end - begin)[some]
            question = np.repeat(np.arange(len(some)), sizes)
            shift = begin[some] - (bounds[at:stop] - bounds[at])
            place = np.arange(len(question)) + np.repeat(shift, sizes)
            known: Bools = self._known_ms[place] <= known_by_ms[some][question]
            yield some, self._rows.take(place[known], question[known])
            at = stop

    def _sorted(self) -> EventIndex:
        """Sort the rows when first asked."""
        if self._index is None:
            order = np.lexsort((self._rows.time_ms, self._rows.owner))
            self._rows = self._rows.take(order)
            self._known_ms = self._known_ms[order]
            self._index = EventIndex(self._rows, None)
        return self._index

    def _latest_known(self, begin: Int64s, end: Int64s) -> Int64s:
        """Give when the last of each range of rows was received."""
        latest = np.full(len(begin), -(2**62), dtype=np.int64)
        some = np.flatnonzero(end > begin)
        if len(some):
            bounds = np.stack([begin[some], end[some]], axis=1).ravel()
            padded = np.append(self._known_ms, 0)  # makes an end at the very last row legal
            latest[some] = np.maximum.reduceat(padded, bounds)[::2]
        return latest
