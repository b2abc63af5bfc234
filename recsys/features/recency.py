"""Recent history: the distinct items a user acted on lately, with how often and when last.

Definition. Of the user's interactions with event time <= *t*, take the latest
``names.HISTORY_EVENTS`` in the order (time, hash of the item). Their distinct items, ordered by
the latest interaction with each in that same order, are the history; when there are more than
``names.HISTORY_LENGTH`` the most recent ones stay. An item's count is the number of those
interactions. The order of arrival plays no part, so late events end up where they belong.

``RecentEvents`` is what the stream keeps (``history_updates.py``); ``HistoryIndex`` answers for any
past moment.

Axes: ``N`` interactions, ``Q`` users or questions, ``H`` history entries of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import FeatureError
from recsys.features import history_codec
from recsys.features.batch import Bools, Float32s, Int64s
from recsys.features.names import HISTORY_EVENTS, HISTORY_LENGTH


@dataclass(frozen=True, slots=True)
class RecentItems:
    """Histories of ``Q`` users, least recent item first."""

    offsets: Int64s
    """``[Q + 1]``."""
    item: Int64s
    """``[H]`` hashes, or what else stands for items."""
    count: Float32s
    last_ms: Int64s

    def take(self, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> RecentItems:
        """Give the same users with some of the entries (``[H]`` mask)."""
        kept = np.concatenate([[0], np.cumsum(keep)])
        return RecentItems(
            kept[self.offsets], self.item[keep], self.count[keep], self.last_ms[keep]
        )


@dataclass(frozen=True, slots=True)
class RecentEvents:
    """Interactions of ``Q`` users in the order of histories: the latest ones, or some more."""

    num_owners: int
    owner: Int64s
    item: Int64s
    """Place in ``ids``."""
    time_ms: Int64s
    ids: list[bytes]
    """Of items, in UTF-8."""

    @classmethod
    def of_blobs(cls, blobs: Sequence[bytes | None]) -> RecentEvents:
        """Decode stored state; ``None`` has none. Raises FeatureError when it is damaged."""
        return cls(len(blobs), *history_codec.decode(blobs))

    def until(self, at_ms: Int64s) -> RecentEvents:
        """Leave out what lies after ``at_ms`` (``[Q]``)."""
        keep = self.time_ms <= at_ms[self.owner]
        if keep.all():
            return self
        return RecentEvents(
            self.num_owners, self.owner[keep], self.item[keep], self.time_ms[keep], self.ids
        )

    def recent_items(self) -> RecentItems:
        """Give the histories; items are places in ``ids``."""
        if not len(self.owner):
            none = np.empty(0, dtype=np.int64)
            offsets = np.zeros(self.num_owners + 1, dtype=np.int64)
            return RecentItems(offsets, none, none.astype(np.float32), none)
        kept = np.flatnonzero(newest_of(self.owner, self.num_owners, HISTORY_EVENTS))
        all_owners, all_items = self.owner[kept], self.item[kept]
        order = np.lexsort((all_items, all_owners))  # stable: of one item the latest comes last
        owner, item = all_owners[order], all_items[order]
        starts = np.flatnonzero(
            np.append(True, (owner[1:] != owner[:-1]) | (item[1:] != item[:-1]))
        )
        ends = np.append(starts[1:], len(order))
        latest = order[ends - 1]
        by_recency = np.argsort(latest)
        latest = latest[by_recency]
        count = (ends - starts)[by_recency]
        owner = all_owners[latest]
        offsets = np.searchsorted(owner, np.arange(self.num_owners + 1))
        everything = RecentItems(
            offsets, all_items[latest], count.astype(np.float32), self.time_ms[kept][latest]
        )
        keep = newest_of(owner, self.num_owners, HISTORY_LENGTH)
        return everything if keep.all() else everything.take(keep)


def newest_of(owner: Int64s, num_owners: int, num: int) -> Bools:
    """Say which rows, sorted by owner, are among the last ``num`` of theirs."""
    ends = np.searchsorted(owner, np.arange(1, num_owners + 1))
    kept: Bools = ends[owner] - np.arange(len(owner)) <= num
    return kept


class HistoryIndex:
    """All interactions of all users, sorted, ready to be asked about any user at any moment."""

    _CHUNK = 4_000_000
    """Events looked at in one step: bounds memory to some 200 MB whatever is asked."""

    def __init__(self, owner: Int64s, item: Int64s, time_ms: Int64s, num_owners: int) -> None:
        order = np.lexsort((item, time_ms, owner))
        owner, item = owner[order], item[order]
        self._item = item
        self._time = time_ms[order]
        self._starts = np.searchsorted(owner, np.arange(num_owners + 1))
        self._num_owners = num_owners
        self._owner = owner
        n = len(order)
        by_item = np.lexsort((np.arange(n), item, owner))
        first = np.ones(n, dtype=np.bool_)
        first[1:] = (owner[by_item][1:] != owner[by_item][:-1]) | (
            item[by_item][1:] != item[by_item][:-1]
        )
        group = np.cumsum(first) - 1
        group_start = np.flatnonzero(first)
        self._occurrence = np.empty(n, dtype=np.int64)  # 1 for the first with that item
        self._next_same = np.full(n, np.iinfo(np.int64).max)
        self._group = np.empty(n, dtype=np.int64)
        if n:
            self._occurrence[by_item] = np.arange(n) - group_start[group] + 1
            self._next_same[by_item[:-1]] = np.where(first[1:], np.iinfo(np.int64).max, by_item[1:])
            self._group[by_item] = group
        self._group_start = group_start
        self._group_keys = group * n + by_item
        low = int(self._time.min()) if n else 0
        span = (int(self._time.max()) - low + 2) if n else 2
        if max(num_owners, 1) * span >= 2**62:
            raise FeatureError(
                f"wanted users x milliseconds below 2^62, found {num_owners} users over {span} ms; "
                "split the log by user"
            )
        self._low, self._span = low, span
        self._time_keys = owner * span + (self._time - low + 1)

    def end_of(self, owner: Int64s, t: Int64s) -> Int64s:
        """Give the place after the last event of ``owner`` at or before ``t``; 0 if unknown."""
        offset = np.clip(t - self._low + 1, 0, self._span - 1)
        ends = np.searchsorted(self._time_keys, owner * self._span + offset, side="right")
        return np.where(owner >= 0, ends, 0)

    def last_ms(self, owner: Int64s, t: Int64s) -> Int64s:
        """Give the time of the latest event at or before ``t``; -1 when there is none."""
        end = self.end_of(owner, t)
        some = (owner >= 0) & (end > self._starts[np.maximum(owner, 0)])
        return np.where(some, np.append(self._time, 0)[np.maximum(end - 1, 0)], -1)

    def at(self, owner: Int64s, t: Int64s) -> RecentItems:
        """Give the histories of ``owner[q]`` (-1: unknown) at ``t[q]``."""
        end = self.end_of(owner, t)
        first = np.where(owner >= 0, self._starts[np.maximum(owner, 0)], end)
        begin = np.maximum(first, end - HISTORY_EVENTS)
        lengths = end - begin
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        chunks: list[tuple[Int64s, Int64s, Int64s]] = []
        q = 0
        while q < len(owner):
            stop = int(np.searchsorted(bounds, bounds[q] + self._CHUNK, side="right")) - 1
            stop = max(stop, q + 1)
            chunks.append(self._chunk(slice(q, stop), begin, end, first))
            q = stop
        sizes = [np.zeros(1, np.int64), *(c[0] for c in chunks)]
        offsets = np.cumsum(np.concatenate(sizes))
        none = np.empty(0, dtype=np.int64)
        event = np.concatenate([none, *(c[1] for c in chunks)])
        count = np.concatenate([none, *(c[2] for c in chunks)])
        return RecentItems(offsets, self._item[event], count.astype(np.float32), self._time[event])

    def _chunk(
        self, rows: slice, begin: Int64s, end: Int64s, first: Int64s
    ) -> tuple[Int64s, Int64s, Int64s]:
        """Give entries per question, the latest event of each entry, and its count."""
        begin, end, first = begin[rows], end[rows], first[rows]
        lengths = end - begin
        question = np.repeat(np.arange(len(begin), dtype=np.int32), lengths)
        shift = begin - np.concatenate([[0], np.cumsum(lengths)[:-1]])
        event = np.arange(len(question)) + shift[question]
        # The latest interaction with its item by then: the next one comes after the moment.
        latest = self._next_same[event] >= end[question]
        event, question = event[latest], question[latest]
        sizes = np.bincount(question, minlength=len(begin))
        ends = np.cumsum(sizes)
        keep = ends[question] - np.arange(len(question)) <= HISTORY_LENGTH
        if not keep.all():
            event, question = event[keep], question[keep]
            sizes = np.minimum(sizes, HISTORY_LENGTH)
        count = self._occurrence[event]
        cut = np.flatnonzero((begin > first)[question])  # older events fell out of the state
        if len(cut):
            group = self._group[event[cut]]
            wanted = group * len(self._item) + begin[question[cut]]
            before = np.searchsorted(self._group_keys, wanted) - self._group_start[group]
            count = count.copy()
            count[cut] -= before
        return sizes, event, count
