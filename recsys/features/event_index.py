"""Windowed aggregates of any entity at any past moment, by cutting ranges out of sorted events.

The offline reading of the definition in ``aggregates.py``: at ``t`` a window is one interval of
event time, so two binary searches and a difference of running sums give its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec
import numpy as np

from recsys.errors import FeatureError
from recsys.features.aggregate_state import State, merge, state_of_blobs, state_of_rows
from recsys.features.aggregates import (
    DECAYED,
    finalise,
    finalise_lists,
    value_of,
    window_start_ms,
    with_ratios,
)
from recsys.features.aggregation import Aggregate
from recsys.features.batch import Float32s, Int64s, Ragged
from recsys.features.event_rows import Rows
from recsys.features.functions import COMPONENTS_OF, Component
from recsys.features.view import View

_CHUNK = 2_000_000
"""Events looked at in one step: bounds memory to some 300 MB whatever is asked."""


class EventIndex:
    """Sorted events of one column, ready to be asked about any entity at any time."""

    def __init__(self, rows: Rows, column: str | None) -> None:
        """Sort the events of ``column``; ``None`` takes those of every column."""
        mask = np.ones(len(rows.owner), np.bool_) if column is None else rows.select(column)
        identity = rows.units if column is None else rows.identity(column)
        owner, time, units = rows.owner[mask], rows.time_ms[mask], identity[mask]
        order = np.lexsort((units, time, owner))
        self._units = units[order]
        self._time_min = int(time.min()) if len(time) else 0
        self._span = (int(time.max()) - self._time_min + 2) if len(time) else 2
        num_owners = int(owner.max()) + 1 if len(owner) else 1
        if num_owners * self._span >= 2**62:
            raise FeatureError(
                f"wanted entities x milliseconds below 2^62, found {num_owners} entities over "
                f"{self._span} ms; split the log by entity"
            )
        self._num_owners = num_owners
        # One int64 key for (owner, time); a time before the first event is 0, all events from 1.
        self._keys = owner[order] * self._span + (time[order] - self._time_min + 1)
        self._running = np.concatenate([[0], np.cumsum(self._units)])

    def position(self, owner: Int64s, time_ms: Int64s, *, inclusive: bool) -> Int64s:
        """Give how many sorted events lie before ``(owner, time)``, ``time`` itself if inclusive.

        An owner without events (also -1) gives an empty range whatever the times.
        """
        offset = np.clip(time_ms - self._time_min + 1, 0, self._span - 1)
        if not inclusive:  # a time after the last event must not cut that event off
            offset = np.where(time_ms - self._time_min + 1 >= self._span, self._span, offset)
        known = np.clip(owner, -1, self._num_owners)
        wanted = known * self._span + offset
        return np.searchsorted(self._keys, wanted, side="right" if inclusive else "left")

    def ranges(self, owner: Int64s, t: Int64s, aggregate: Aggregate) -> tuple[Int64s, Int64s]:
        """Give the half-open ranges of events that count at ``t``."""
        end = self.position(owner, t, inclusive=True)
        begin = self.position(owner, window_start_ms(t, aggregate), inclusive=False)
        return np.minimum(begin, end), end

    def newest_ms(self, owner: Int64s, t: Int64s) -> Int64s:
        """Give the time of the latest event at or before ``t``; far in the past when none is."""
        end = self.position(owner, t, inclusive=True)
        latest = np.append(self._keys, -1)[np.maximum(end - 1, 0)]
        some = (end > 0) & (owner >= 0) & (latest // self._span == owner)
        return np.where(some, latest % self._span - 1 + self._time_min, -(2**53))

    def aggregate(self, function: str, begin: Int64s, end: Int64s) -> Float32s:
        """Give the value over each range, ``[Q]``."""
        parts: dict[Component, Int64s] = {"count": end - begin}
        if function in ("sum", "mean"):
            parts["sum"] = self._running[end] - self._running[begin]
        elif function == "first":
            parts["first"] = self._padded[begin]
        elif function == "last":
            parts["last"] = self._padded[np.maximum(end - 1, 0)]
        elif function in ("min", "max"):
            ufunc = np.minimum if function == "min" else np.maximum
            parts[cast(Component, function)] = self._extremes(ufunc, begin, end)
        return value_of(function, parts)

    def states(
        self, view: View, begin: Int64s, end: Int64s
    ) -> Iterator[tuple[slice, State]]:  # fmt: skip
        """Give the merged state of the events in each range, for some questions at a time.

        What no difference of running sums gives (sets, sessions, decay) is computed from the events
        of each window, some ``_CHUNK`` at a time or one question where that has more.
        """
        lengths = np.maximum(end - begin, 0)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        q = 0
        while q < len(begin):
            stop = int(np.searchsorted(bounds, bounds[q] + _CHUNK, side="right")) - 1
            stop = min(max(stop, q + 1), q + _CHUNK)
            some = slice(q, stop)
            question = np.repeat(np.arange(stop - q), lengths[some])
            event = np.arange(len(question)) + (begin[some] - bounds[some] + bounds[q])[question]
            zeros = np.zeros(len(event), dtype=np.int64)
            units = self._units[event]
            time_ms = self._keys[event] % self._span - 1 + self._time_min
            rows = Rows(
                question, time_ms, units, zeros.astype(np.uint8), zeros, (), units, units
            )  # fmt: skip
            yield some, merge(view, state_of_rows(view, rows))
            q = stop

    @property
    def _padded(self) -> Int64s:
        return np.append(self._units, 0)

    def _extremes(self, ufunc: np.ufunc, begin: Int64s, end: Int64s) -> Int64s:
        extremes = np.zeros(len(begin), dtype=np.int64)
        some = np.flatnonzero(end > begin)
        if len(some):
            bounds = np.stack([begin[some], end[some]], axis=1).ravel()
            # An appended row makes an end at the very last event a legal index.
            extremes[some] = ufunc.reduceat(self._padded, bounds)[::2]
        return extremes


def values_at(
    view: View, indexes: dict[str, EventIndex], owner: Int64s, t: Int64s
) -> Float32s:  # fmt: skip
    """Give the values of ``view.scalar_aggregates`` of ``owner[q]`` at ``t[q]``, ``[Q, F]``.

    ``indexes`` holds an ``EventIndex`` for every one of ``view.columns``.
    """
    values = np.zeros((len(owner), len(view.scalar_aggregates)), dtype=np.float32)
    ranges: dict[tuple[str, int, int], tuple[Int64s, Int64s]] = {}
    for f, aggregate in enumerate(view.scalar_aggregates):
        name = aggregate.call.name
        if name == "ratio":
            continue
        index = indexes[aggregate.column]
        key = (aggregate.column, aggregate.window_ms, aggregate.slide_ms)
        if key not in ranges:
            ranges[key] = index.ranges(owner, t, aggregate)
        if name in COMPONENTS_OF and name not in DECAYED:
            values[:, f] = index.aggregate(name, *ranges[key])
        else:
            alone = _alone(view, aggregate)
            for some, state in index.states(alone, *ranges[key]):
                values[some, f] = finalise(alone, state, t[some])[:, 0]
    return with_ratios(view, values)


def lists_at(
    view: View, indexes: dict[str, EventIndex], owner: Int64s, t: Int64s
) -> dict[str, Ragged]:  # fmt: skip
    """Give ``view.list_aggregates`` of ``owner[q]`` at ``t[q]``, as ``finalise_lists`` does."""
    found: dict[str, Ragged] = {}
    for aggregate in view.list_aggregates:
        index, alone = indexes[aggregate.column], _alone(view, aggregate)
        begin, end = index.ranges(owner, t, aggregate)
        begin = np.maximum(begin, end - aggregate.call.length)
        chunks = [
            finalise_lists(alone, state, t[some])[aggregate.name]
            for some, state in index.states(alone, begin, end)
        ]
        empty = finalise_lists(alone, state_of_blobs(alone, []), t[:0])[aggregate.name]
        values = np.concatenate([empty.values, *(c.values for c in chunks)])
        lengths = np.concatenate([t[:0], *(np.diff(c.offsets) for c in chunks)])
        found[aggregate.name] = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
    return found


def _alone(view: View, aggregate: Aggregate) -> View:
    """Give a view of one aggregate over events that are all of one kind."""
    column = "interaction" + (f".{aggregate.field}" if aggregate.field else "")
    aggregate = msgspec.structs.replace(aggregate, column=column)
    return msgspec.structs.replace(view, aggregates=(aggregate,))
