"""Which tiles of an entity are in a window: those of all windows of a view found at once.

Tiles are sorted by entity, series and number, so those of one window stand side by side, and two
binary searches say where. What lies between is one difference of running sums, so the windows of a
view cost a few array operations together, not each.

Axes: ``N`` tiles, ``Q`` entities, ``A`` aggregates that are read from tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregation import Aggregate
from recsys.features.batch import Int64s
from recsys.features.functions import COMPONENTS_OF, Component
from recsys.features.view import View

_MAX_KEY = 1 << 62


@dataclass(frozen=True, eq=False, kw_only=True)
class TileWindows:
    """The windows of a view that are read from tiles."""

    aggregates: tuple[Aggregate, ...]
    columns_of: dict[str, tuple[Int64s, Int64s]]
    """By function: places among ``aggregates``, and among ``View.scalar_aggregates``."""
    num_series: int
    series: Int64s
    """``[A]`` place in ``View.series``."""
    slide_ms: Int64s
    num_tiles: Int64s

    @classmethod
    def of(cls, view: View) -> TileWindows:
        """Give those of ``view``."""
        numbers = {(s.column, s.slide_ms): n for n, s in enumerate(view.series)}
        columns = [f for f, a in enumerate(view.scalar_aggregates) if a.call.name in COMPONENTS_OF]
        found = tuple(view.scalar_aggregates[f] for f in columns)
        places: dict[str, list[int]] = {}
        for place, aggregate in enumerate(found):
            places.setdefault(aggregate.call.name, []).append(place)
        return cls(
            aggregates=found,
            columns_of={
                name: (_int64s(some), _int64s([columns[place] for place in some]))
                for name, some in places.items()
            },
            num_series=len(view.series),
            series=_int64s([numbers[a.column, a.slide_ms] for a in found]),
            slide_ms=_int64s([a.slide_ms for a in found]),
            num_tiles=_int64s([a.num_tiles for a in found]),
        )

    def ranges(
        self, owner: Int64s, series: NDArray[np.uint8], tile: Int64s, at_ms: Int64s
    ) -> tuple[Int64s, Int64s]:
        """Give where the tiles of each window of entities ``0 … Q - 1`` begin and end, ``[Q, A]``.

        ``owner``, ``series`` and ``tile``, ``[N]`` each, at least one, are sorted in that order.
        """
        low = int(tile.min())
        span = int(tile.max()) - low + 2
        num = len(at_ms)
        if num > 1 and num * self.num_series * span >= _MAX_KEY:
            half = num // 2
            cut = int(np.searchsorted(owner, half))
            before = self.ranges(owner[:cut], series[:cut], tile[:cut], at_ms[:half])
            after = self.ranges(owner[cut:] - half, series[cut:], tile[cut:], at_ms[half:])
            return (
                np.concatenate([before[0], after[0] + cut]),
                np.concatenate([before[1], after[1] + cut]),
            )
        keys = (owner * self.num_series + series) * span + (tile - low)
        bounds = np.empty((2, num, len(self.aggregates)), dtype=np.int64)
        np.floor_divide(at_ms[:, None], self.slide_ms, out=bounds[1])
        bounds[1] += 1 - low
        np.subtract(bounds[1], self.num_tiles, out=bounds[0])
        np.maximum(bounds, 0, out=bounds)
        np.minimum(bounds, span - 1, out=bounds)
        bounds += (np.arange(0, num * self.num_series, self.num_series)[:, None] + self.series) * (
            span
        )
        begin, end = keys.searchsorted(bounds)
        return begin, end


class Sums:
    """Sums of components over the ranges of all windows, each added up once."""

    def __init__(self, parts: Mapping[Component, Int64s], begin: Int64s, end: Int64s) -> None:
        self._parts, self._begin, self._end = parts, begin, end
        self._found: dict[Component, Int64s] = {}

    def of(self, component: Component, places: Int64s) -> Int64s:
        """Give the sums of some windows, ``[Q, places]``; exact as long as they fit."""
        found = self._found.get(component)
        if found is None:
            part = self._parts[component]
            running = np.zeros(len(part) + 1, dtype=np.int64)
            part.cumsum(out=running[1:])
            found = self._found[component] = running[self._end] - running[self._begin]
        return found[:, places]


def reduced(ufunc: np.ufunc, part: Int64s, begin: Int64s, end: Int64s) -> Int64s:
    """Give ``ufunc`` over each range, 0 for an empty one."""
    found = np.zeros(begin.shape, dtype=np.int64)
    some = end > begin
    bounds = np.stack([begin[some], end[some]], axis=1).reshape(-1)
    if len(bounds):  # a range may end with the array: one more element closes it
        found[some] = ufunc.reduceat(np.append(part, 0), bounds)[::2]
    return found


def _int64s(values: list[int]) -> Int64s:
    return np.array(values, dtype=np.int64)
