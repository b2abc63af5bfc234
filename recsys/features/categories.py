"""Which category an item was in when something happened to it, as far as was known by then.

An interaction counts in the category that the item events *received before it* give for its time:
of those, the one in force at its (effective) time; before the first of them, the category that one
gives, since catalogues are often loaded after the behaviour they explain. Whatever order the events
of the two topics are read in, the answer follows from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.features.batch import Int64s

Said = tuple[int, int, str]
"""``(effective_ms, known_ms, category)`` of one item event; of equal ones the last in this order
counts."""


@dataclass(frozen=True)
class Timelines:
    """What item events said of ``num_items`` items, sorted by (item, effective, known)."""

    item: Int64s
    effective_ms: Int64s
    known_ms: Int64s
    num_items: int
    _times: Int64s = field(init=False)
    _keys: Int64s = field(init=False)
    _starts: Int64s = field(init=False)

    def __post_init__(self) -> None:
        times, rank = np.unique(self.effective_ms, return_inverse=True)
        # Ranks in place of times keep one int64 key for (item, time) within bounds.
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_keys", self.item * (len(times) + 1) + rank + 1)
        starts = np.searchsorted(self.item, np.arange(self.num_items + 1))
        object.__setattr__(self, "_starts", starts)

    def at(self, item: Int64s, time_ms: Int64s, known_ms: Int64s) -> Int64s:
        """Give the place of what counts for an event at ``time_ms`` received at ``known_ms``.

        -1 when nothing was said of the item before it was received.
        """
        rank = np.searchsorted(self._times, time_ms, side="right")
        wanted = item * (len(self._times) + 1) + rank
        place = np.searchsorted(self._keys, wanted, side="right") - 1
        first, end = self._starts[item], self._starts[item + 1]
        answer = np.full(len(item), -1, dtype=np.int64)
        # Back from the one in force to the latest that was known; then on to the first known.
        self._walk(answer, np.arange(len(item)), place, -1, first, end, known_ms)
        missing = np.flatnonzero(answer < 0)
        self._walk(answer, missing, first[missing], +1, first, end, known_ms)
        return answer

    def _walk(
        self,
        answer: Int64s,
        question: Int64s,
        place: Int64s,
        step: int,
        first: Int64s,
        end: Int64s,
        known_ms: Int64s,
    ) -> None:
        while len(question):
            inside = (place >= first[question]) & (place < end[question])
            question, place = question[inside], place[inside]
            known = self.known_ms[place] < known_ms[question]
            answer[question[known]] = place[known]
            question, place = question[~known], place[~known] + step


def with_said(timeline: Sequence[Said], more: Iterable[Said]) -> list[Said]:
    """Give a timeline with more entries; those it has already change nothing."""
    return sorted({*timeline, *more})
