"""Windows of few entities out of their bytes, without arrays: what a request reads of a user.

The same bytes and the same meaning as ``tile_codec.py`` and ``aggregates.py`` have for many
entities, for views of counts, sums and means. A user has some hundred tiles with all categories
together. One array operation costs as much as ten of them here, and three times that where the
caches hold something else, as they do when a request comes after a pause.

Axes: ``Q`` entities, ``F`` aggregates.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from recsys.features.batch import Float32s
from recsys.features.event_rows import QUANTUM
from recsys.features.tile_codec import FORMATS, TILE_BITS, damaged
from recsys.features.view import View

FEW_BYTES = 1_500
"""Of tiles, up to which this takes less time than arrays do (a tile has 5 to 10)."""
_MOST_PLACES = 5_000
"""Tiles in all windows of a view: as many are looked through whenever one more begins."""
_NARROW_BITS = TILE_BITS[0]
_COUNT_OF = ("B", "H")
"""Count of a tile in the two narrow formats, for ``struct``."""
_NOWHERE: tuple[int, ...] = ()


class FewWindows:
    """The windows of one view, added up tile by tile."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._functions = tuple(aggregate.call.name for aggregate in view.scalar_aggregates)
        self._has_sum = "sum" in view.components
        other = "i" if self._has_sum else ""
        self._records = [struct.Struct(f"<I{count}{other}") for count in _COUNT_OF]
        numbers = {(series.column, series.slide_ms): n for n, series in enumerate(view.series)}
        self._windows = [
            (numbers[a.column, a.slide_ms], a.num_tiles) for a in view.scalar_aggregates
        ]
        self._slides_ms = [series.slide_ms for series in view.series]
        self._known: tuple[list[int], dict[int, tuple[int, ...]]] = ([], {})
        """The latest tile of each series, and of each tile then in a window its columns."""

    @classmethod
    def of(cls, view: View) -> FewWindows | None:
        """Give those of ``view``, made once; ``None`` for one of other functions."""
        known = view.__dict__
        if "_few_windows" not in known:
            functions = {aggregate.call.name for aggregate in view.aggregates}
            tiles = sum(aggregate.num_tiles for aggregate in view.aggregates)
            is_simple = functions <= {"count", "sum", "mean"} and tiles <= _MOST_PLACES
            known["_few_windows"] = cls(view) if is_simple else None
        found: FewWindows | None = known["_few_windows"]
        return found

    def values(self, payloads: Sequence[bytes], now_ms: int) -> Float32s | None:
        """Give ``[Q, F]`` of the entities with these tiles (empty: none) at one moment.

        ``None`` where they are many, or one is in the widest format.

        Raises:
            FeatureError: when a payload is not a whole number of tiles of this view.
        """
        if sum(map(len, payloads)) > FEW_BYTES:
            return None
        columns_of = self._columns_at(now_ms)
        width = len(self._functions)
        counts = [0] * (len(payloads) * width)
        sums = counts.copy() if self._has_sum else counts
        begin = 0
        for payload in payloads:
            if payload:
                number = payload[0]
                if number >= len(_COUNT_OF):
                    if number < len(FORMATS):
                        return None
                    raise damaged(self._view, f"format {number}")
                self._add(payload, self._records[number], columns_of, begin, counts, sums)
            begin += width
        values: Float32s = np.array(
            self._finished(counts, sums) if self._has_sum else counts, dtype=np.float32
        )
        return values.reshape(len(payloads), width)

    def _columns_at(self, now_ms: int) -> dict[int, tuple[int, ...]]:
        latest = [now_ms // slide_ms for slide_ms in self._slides_ms]
        known_at, columns_of = self._known
        if latest != known_at:
            columns_of = {}
            for column, (series, num_tiles) in enumerate(self._windows):
                end = min(latest[series] + 1, 1 << _NARROW_BITS)
                for tile in range(max(0, latest[series] - num_tiles + 1), end):
                    place = series << _NARROW_BITS | tile
                    columns_of[place] = (*columns_of.get(place, _NOWHERE), column)
            self._known = latest, columns_of  # at once: readers in threads share the view
        return columns_of

    def _add(
        self,
        payload: bytes,
        record: struct.Struct,
        columns_of: dict[int, tuple[int, ...]],
        begin: int,
        counts: list[int],
        sums: list[int],
    ) -> None:
        if (len(payload) - 1) % record.size:
            raise damaged(self._view, f"{len(payload) - 1} bytes of {record.size} each")
        place = 0
        if self._has_sum:
            for place, count, total in record.iter_unpack(payload[1:]):
                for column in columns_of.get(place, _NOWHERE):
                    counts[begin + column] += count
                    sums[begin + column] += total
        else:
            for place, count in record.iter_unpack(payload[1:]):
                for column in columns_of.get(place, _NOWHERE):
                    counts[begin + column] += count
        series = place >> _NARROW_BITS  # of the last, which has the highest
        if series >= len(self._slides_ms):
            raise damaged(self._view, f"series {series} of {len(self._slides_ms)}")

    def _finished(self, counts: list[int], sums: list[int]) -> list[float]:
        functions = self._functions * (len(counts) // len(self._functions))
        return [
            count
            if function == "count"
            else total * QUANTUM
            if function == "sum"
            else total * QUANTUM / max(count, 1)
            for function, count, total in zip(functions, counts, sums, strict=True)
        ]
