"""Lists of the newest events of an entity: what ``last_n`` is read from.

Definition. Of the events that a sliding window counts at *t* (``aggregates.py``), the latest ``n``
in the order (time, identity or value), least recent first. State: the newest events of each column,
as many as its longest list; the newest of a union are the newest of the newest, so order and
grouping of merges do not matter.

Axes: ``N`` events, ``Q`` questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregation import Aggregate
from recsys.features.batch import Int64s, Ragged
from recsys.features.records import join_records, split_records, starts_of_groups
from recsys.features.view import View

ENTRY_DTYPE = np.dtype([("series", "u1"), ("time_ms", "<i8"), ("identity", "<i8")])


@dataclass(frozen=True, slots=True)
class Newest:
    """Events, ``[N]`` each, sorted by ``(owner, series, time, identity)`` once merged."""

    owner: Int64s
    series: NDArray[np.uint8]
    time_ms: Int64s
    identity: Int64s

    def take(self, rows: NDArray[np.generic]) -> Newest:
        """Give some of them."""
        return Newest(
            self.owner[rows], self.series[rows], self.time_ms[rows], self.identity[rows]
        )  # fmt: skip


def of_events(number: int, owner: Int64s, time_ms: Int64s, identity: Int64s) -> Newest:
    """Give the entries of series ``number``."""
    return Newest(owner, np.full(len(owner), number, np.uint8), time_ms, identity)


def of_blobs(view: View, blobs: Sequence[bytes]) -> Newest:
    """Decode stored entries. Raises FeatureError when they are damaged."""
    owner, r = join_records(blobs, ENTRY_DTYPE, f'lists of view "{view.name}"')
    return Newest(owner, r["series"], r["time_ms"].astype(np.int64), r["identity"].astype(np.int64))


def blobs_of(newest: Newest, num_owners: int) -> list[bytes]:
    """Encode entries, one blob for each owner."""
    records = np.empty(len(newest.owner), dtype=ENTRY_DTYPE)
    records["series"], records["time_ms"] = newest.series, newest.time_ms
    records["identity"] = newest.identity
    return split_records(records, newest.owner, num_owners)


def merge(view: View, many: Sequence[Newest]) -> Newest:
    """Keep the newest of all, as many as the longest list of each column."""
    fields = ("owner", "series", "time_ms", "identity")
    newest = Newest(*(np.concatenate([getattr(n, f) for n in many]) for f in fields))
    if not len(newest.owner):
        return newest
    newest = newest.take(
        np.lexsort((newest.identity, newest.time_ms, newest.series, newest.owner))
    )  # fmt: skip
    length = np.array([s.length for s in view.lists], dtype=np.int64)[newest.series]
    starts = starts_of_groups(newest.owner, newest.series)
    return newest.take(_from_the_end(starts, len(newest.owner)) < length)


def trim(view: View, newest: Newest, newest_ms: Int64s) -> Newest:
    """Drop events no window can reach from ``newest_ms`` (``[owners]``) on."""
    window = np.array([s.window_ms for s in view.lists], dtype=np.int64)[newest.series]
    return newest.take(newest.time_ms > newest_ms[newest.owner] - window)


def lists(view: View, newest: Newest, aggregate: Aggregate, at_ms: Int64s) -> Ragged:
    """Give the identities (int64) of entities ``0 … Q - 1`` at ``at_ms``."""
    number = [s.column for s in view.lists].index(aggregate.column)
    at, slide = at_ms[newest.owner], aggregate.slide_ms
    age = at // slide - newest.time_ms // slide
    some = (newest.series == number) & (newest.time_ms <= at) & (age < aggregate.num_tiles)
    newest = newest.take(some)
    if len(newest.owner):
        starts = starts_of_groups(newest.owner)
        newest = newest.take(_from_the_end(starts, len(newest.owner)) < aggregate.call.length)
    offsets = np.searchsorted(newest.owner, np.arange(len(at_ms) + 1)).astype(np.int64)
    return Ragged(newest.identity, offsets)


def _from_the_end(starts: Int64s, n: int) -> Int64s:
    """Give how many entries of its group lie behind each entry, ``[N]``."""
    lengths = np.diff(np.append(starts, n))
    behind: Int64s = np.repeat(starts + lengths, lengths) - 1 - np.arange(n)
    return behind
