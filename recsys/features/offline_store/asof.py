"""The point-in-time join over arrays: for each label the newest row it could have known.

Axes: ``L`` labels, ``N`` rows of one chunk of the source.

A label is a key and a moment; a row is a key, an event time, optionally a created time, and its
position in the source. Of the rows with the label's key the join takes the greatest by (event
time, created time, position) among those with event time in ``[earliest, latest]`` of the label.
All times of one join are int64 in one unit; a missing created time is ``NO_TIME`` and sorts lowest,
as DuckDB sorts nulls.

The choice is a maximum, so it can be taken chunk by chunk: ``AsOf`` holds the best row so far of
every label and needs no more memory than that, however long the source is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.features.offline_store.label_order import Int64s, LabelOrder

NO_TIME = np.iinfo(np.int64).min
"""Stands for a null created time: lower than any."""

_BLOCK = 1 << 12  # moments looked up between the same two ends

_BITS = 62  # of a packed (key, time); one bit less than int64 has, so that "before all" fits too


class AsOf:
    """The running answer of a point-in-time join.

    Args:
        codes: Key of each label (L,), dense from 0; -1 for a label that matches nothing.
        latest: The label's moment (L,): no row after it counts.
        earliest: No row before it counts (L,), or None without a limit (no TTL).
        created_of: Created times of rows by their positions, ``NO_TIME`` for null; asked only for
            rows of equal key and event time, which most sources have few of. None when the source
            has no created time.
        order: The labels by their moments and keys, where it is known already.
    """

    def __init__(
        self,
        codes: Int64s,
        latest: Int64s,
        earliest: Int64s | None = None,
        created_of: Callable[[Int64s], Int64s] | None = None,
        order: LabelOrder | None = None,
    ) -> None:
        # Sorted once by (key, moment): binary search then walks the rows forward, which is an order
        # of magnitude faster than jumping about, and the order serves every chunk.
        self._order = order or LabelOrder(codes, np.argsort(latest))
        self._moments = latest[self._order.by_moment]
        self._earliest = None if earliest is None else earliest[self._order.labels]
        self._created_of = created_of
        self._event = np.full(len(self._order.labels), NO_TIME)
        self._row = np.full(len(self._order.labels), -1)

    @cached_property
    def span(self) -> tuple[int, int] | None:
        """Lowest and highest event time that may count for any label; None when none can match."""
        if not len(self._row):
            return None
        lowest = int(NO_TIME) + 1 if self._earliest is None else int(self._earliest.min())
        return lowest, int(self._moments[self._order.place.max()])

    def add(self, codes: Int64s, event: Int64s, rows: Int64s, known: Int64s | None = None) -> None:
        """Look at a chunk of rows (N,).

        Args:
            codes: Keys, in the labels' coding; -1 for a key that no label has.
            event: Event times, ``NO_TIME`` for null: no label gets such a row.
            rows: Positions in the source, ascending, and above those of all earlier chunks.
            known: Created times, when a row counts only from then on; a row of ``NO_TIME`` never
                does. None when a row is taken to have been known since its event time.
        """
        if self.span is None:
            return
        lowest, highest = self.span
        in_order = known is None and bool((event[1:] >= event[:-1]).all())
        counts: slice | npt.NDArray[np.bool_]
        if in_order:
            first = np.searchsorted(event, lowest)
            counts = slice(first, np.searchsorted(event, highest, side="right"))
        else:
            counts = (codes >= 0) & (event >= lowest) & (event <= highest)
            if known is not None:
                counts &= known != NO_TIME
                known = known[counts]
        codes, event, rows = codes[counts], event[counts], rows[counts]
        if not len(codes):
            return
        if in_order:
            found = self._newest_in_order(codes, event, rows)
        else:
            found = self._newest(codes, event, rows, known)
        has = found >= 0
        chosen = event[found]
        if self._earliest is not None:
            has &= chosen >= self._earliest
        has &= chosen >= self._event
        level = np.flatnonzero(has & (chosen == self._event) & (self._row >= 0))
        if len(level) and self._created_of is not None:
            # Positions ascend from chunk to chunk: also of equal created times the newcomer wins.
            before = self._created_of(self._row[level])
            has[level] = self._created_of(rows[found[level]]) >= before
        np.copyto(self._event, chosen, where=has)
        np.copyto(self._row, rows[found], where=has)

    def rows(self) -> Int64s:
        """The position in the source of each label's row (L,), -1 where there is none."""
        answer = np.full(len(self._order.by_moment), -1)
        answer[self._order.labels] = self._row
        return answer

    def _newest(self, codes: Int64s, event: Int64s, rows: Int64s, known: Int64s | None) -> Int64s:
        """Index of the newest row of its key at or before each label (M,); -1 without any."""
        created_of = self._created_of
        order, packed, packing = _order(
            codes, event, None if created_of is None else lambda tied: created_of(rows[tied])
        )
        if known is not None:
            # A row counts from the moment both its times have come. Walking the rows by that
            # moment, the one to take is the greatest so far in (event, created, position). Ranks in
            # that order grow with the key too, so one running maximum serves all keys.
            rank = np.empty(len(order), dtype=np.int64)
            rank[order] = np.arange(len(order))
            by_known, packed, packing = _order(codes, np.maximum(event, known), None)
            order = order[np.maximum.accumulate(rank[by_known])]
        at = packing.search(packed, self._order.codes, self._latest)
        found: Int64s = order[at]
        found[(at < 0) | (codes[found] != self._order.codes)] = -1
        return found

    def _newest_in_order(self, codes: Int64s, event: Int64s, rows: Int64s) -> Int64s:
        """``_newest`` of a chunk in the order of its event times, as logs are.

        A row's number stands for its time there, so that (key, number) fits one integer whose
        sorting is the order: values sort three times as fast as an order of them.
        """
        bits = len(codes).bit_length()
        number = np.flatnonzero(codes >= 0)
        packed = codes[number]
        packed <<= bits
        packed |= number
        del number
        if not len(packed):
            return np.full(len(self._row), -1)
        packed.sort()
        if self._created_of is not None and (event[1:] == event[:-1]).any():
            packed = np.delete(packed, self._outdone(packed, bits, codes, event, rows))
        wanted = _up_to(event, self._moments)[self._order.place]
        wanted += (self._order.codes << bits) - 1
        at = _up_to(packed, wanted) - 1
        newest: Int64s = packed[at]
        has = (newest >> bits) == self._order.codes
        has &= at >= 0
        newest &= (1 << bits) - 1
        newest[~has] = -1
        return newest

    def _outdone(
        self, packed: Int64s, bits: int, codes: Int64s, event: Int64s, rows: Int64s
    ) -> Int64s:
        """Places in sorted ``packed`` whose row has the key and time of one created later."""
        assert self._created_of is not None
        # Rows of a log rarely share a time, and a key too more rarely: found among those that do.
        number = (1 << bits) - 1
        level = event[1:] == event[:-1]
        tied = np.flatnonzero(np.append(level, False) | np.append(False, level))
        tied = tied[codes[tied] >= 0]
        values = np.sort((codes[tied] << bits) | tied)
        times = event[values & number]
        level = (times[1:] == times[:-1]) & (values[1:] >> bits == values[:-1] >> bits)
        if not level.any():
            return np.empty(0, dtype=np.int64)
        members = np.flatnonzero(np.append(level, False) | np.append(False, level))
        group = np.cumsum(~np.append(False, level))[members]
        created = self._created_of(rows[values[members] & number])
        members = members[np.lexsort((members, created, group))]
        places: Int64s = np.searchsorted(packed, values[members[:-1][group[1:] == group[:-1]]])
        return places

    @cached_property
    def _latest(self) -> Int64s:
        """Moments by (key, moment) (M,)."""
        return self._moments[self._order.place]


class _Packing:
    """(key, time) as one int64 that sorts alike: times from their lowest, or their ranks."""

    def __init__(self, codes: Int64s, times: Int64s) -> None:
        self._lowest = int(times.min())
        span = int(times.max()) - self._lowest
        self._distinct: Int64s | None = None
        if int(codes.max()).bit_length() + span.bit_length() > _BITS:
            self._distinct = np.unique(times)
            span = len(self._distinct)
        self._span = span
        self._bits = span.bit_length()

    def pack(self, codes: Int64s, times: Int64s) -> Int64s:
        packed = codes << self._bits
        if self._distinct is not None:
            packed += np.searchsorted(self._distinct, times)
        else:
            packed -= self._lowest  # wraps around and back again
            packed += times
        return packed

    def search(self, packed: Int64s, codes: Int64s, latest: Int64s) -> Int64s:
        """Index of the last of sorted ``packed`` at or before each (key, moment); -1 for none."""
        if self._distinct is not None:
            offset = np.searchsorted(self._distinct, latest, side="right") - 1
        else:
            lowest, highest = self._lowest - 1, self._lowest + self._span
            # Clip before subtracting: moments may lie anywhere in int64.
            offset = np.clip(latest, max(lowest, NO_TIME), highest) - self._lowest
            if lowest < NO_TIME:
                offset[latest < self._lowest] = -1
        return np.searchsorted(packed, (codes << self._bits) + offset, side="right") - 1


def _up_to(values: Int64s, moments: Int64s) -> Int64s:
    """How many of ascending ``values`` are at or before each of ascending ``moments``.

    A block of moments is searched for between where its first and its last belong, which halves the
    steps of a binary search over everything.
    """
    counts = np.empty(len(moments), dtype=np.int64)
    low = 0
    for start in range(0, len(moments), _BLOCK):
        block = moments[start : start + _BLOCK]
        high = int(np.searchsorted(values, block[-1], side="right"))
        counts[start : start + _BLOCK] = np.searchsorted(values[low:high], block, side="right")
        counts[start : start + _BLOCK] += low
        low = high
    return counts


def _order(
    codes: Int64s, times: Int64s, created_of: Callable[[Int64s], Int64s] | None
) -> tuple[Int64s, Int64s, _Packing]:
    """Sort by (key, time, created, position).

    NumPy's vectorised quicksort does 2M packed values in 70 ms but is not stable; the rows it left
    in any order are those with equal neighbours, usually few, and they are sorted again with all
    their criteria.

    Returns:
        The order, the packed (key, time) in that order, and how they were packed.
    """
    if not len(codes):
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, _Packing(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    packing = _Packing(codes, times)
    packed = packing.pack(codes, times)
    order = np.argsort(packed)
    packed = packed[order]
    equal = packed[1:] == packed[:-1]
    if equal.any():
        tied = np.zeros(len(packed), dtype=bool)
        tied[1:] = equal
        tied[:-1] |= equal
        members = order[tied]
        criteria = [members] if created_of is None else [members, created_of(members)]
        order[tied] = members[np.lexsort((*criteria, packed[tied]))]
    return order, packed, packing
