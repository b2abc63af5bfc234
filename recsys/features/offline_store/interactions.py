"""Everyone's interactions, and those of them that the log had received by some moment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from recsys.features.offline_store.label_order import Int64s
from recsys.features.recency import HistoryIndex

_CHUNK = 2_000_000
"""Interactions gathered in one step: bounds memory to some 200 MB whatever is asked."""


class Interactions:
    """Rows (N,) of all users, in any order."""

    def __init__(
        self, owner: Int64s, item: Int64s, time_ms: Int64s, known_ms: Int64s, num_owners: int
    ) -> None:
        order = np.lexsort((time_ms, owner))
        self._owner, self._item = owner[order], item[order]
        self._time, self._known = time_ms[order], known_ms[order]
        self._num_owners = num_owners

    @cached_property
    def index(self) -> HistoryIndex:
        """All of them."""
        return HistoryIndex(self._owner, self._item, self._time, self._num_owners)

    @cached_property
    def _starts(self) -> Int64s:
        return np.searchsorted(self._owner, np.arange(self._num_owners + 1))

    @cached_property
    def _latest_known(self) -> Int64s:
        """Of each row, when the last of its owner's rows up to it was received (N,)."""
        if not len(self._owner):
            return self._known
        low = int(self._known.min())
        base = self._owner * (int(self._known.max()) - low + 1) - low
        # Owners ascend, so that the maximum of one never reaches into the next.
        return np.maximum.accumulate(base + self._known) - base

    def by_question(
        self, owner: Int64s, t: Int64s, known_by_ms: Int64s
    ) -> Iterator[tuple[Int64s, HistoryIndex]]:
        """Give the questions that an interaction not received yet would have a part in.

        In parts: the places of the questions, and an index of what was known, whose owners are the
        places among these.
        """
        if not len(self._owner):
            return
        begin = self._starts[np.maximum(owner, 0)]
        end = np.where(owner < 0, begin, self._until(owner, t))
        some = np.flatnonzero(end > begin)
        late = some[self._latest_known[end[some] - 1] > known_by_ms[some]]
        bounds = np.concatenate([[0], np.cumsum((end - begin)[late])])
        at = 0
        while at < len(late):
            stop = int(np.searchsorted(bounds, bounds[at] + _CHUNK, side="right")) - 1
            stop = max(stop, at + 1)
            asked = late[at:stop]
            sizes = (end - begin)[asked]
            question = np.repeat(np.arange(len(asked)), sizes)
            shift = begin[asked] - (bounds[at:stop] - bounds[at])
            place = np.arange(len(question)) + np.repeat(shift, sizes)
            known = self._known[place] <= known_by_ms[asked][question]
            place, question = place[known], question[known]
            yield asked, HistoryIndex(question, self._item[place], self._time[place], len(asked))
            at = stop

    def _until(self, owner: Int64s, t: Int64s) -> Int64s:
        """Where the rows of ``owner[q]`` later than ``t[q]`` begin."""
        low = int(self._time.min())
        span = int(self._time.max()) - low + 2
        keys = self._owner * span + (self._time - low + 1)
        return np.searchsorted(keys, owner * span + np.clip(t - low + 1, 0, span - 1), "right")
