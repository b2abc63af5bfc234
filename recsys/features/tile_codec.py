"""Tiles as bytes: fixed-width records, as narrow as the numbers of an entity allow.

A blob is the number of its format (one byte, place in ``FORMATS``) and then its tiles, sorted by
``(series, tile)``. In the narrow formats a tile is ``series << 24 | tile`` in 4 bytes, its count in
1 or 2, and every other component in 4; times count from the start of the tile. What does not fit
is written in a wider format. Whole arrays of fixed width decode in a seventh of the time that
varints take, at 1.6 times their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Int64s
from recsys.features.functions import Component
from recsys.features.view import View

FORMATS = (("<u4", "u1", "<i4"), ("<u4", "<u2", "<i4"), ("<u8", "<u4", "<i8"))
"""Types of place, count and the other components, narrowest first."""
TILE_BITS = (24, 24, 40)
"""Of a place: bits of the tile's number; those of its series lie above."""
_RELATIVE = ("first_ms", "last_ms")


def dtype_of(view: View, number: int) -> np.dtype[np.void]:
    """Give the record of a tile of ``view`` in one format."""
    return _dtype(view.components, number)


@lru_cache(maxsize=256)
def _dtype(components: tuple[Component, ...], number: int) -> np.dtype[np.void]:
    place, count, other = FORMATS[number]
    return np.dtype(
        [("place", place), *((c, count if c == "count" else other) for c in components)]
    )


def encode(
    view: View,
    owner: Int64s,
    series: NDArray[np.uint8],
    tile: Int64s,
    parts: dict[Component, Int64s],
    num_owners: int,
) -> list[bytes]:
    """Encode tiles sorted by ``(owner, series, tile)``, one blob for each owner."""
    blobs = [b""] * num_owners
    if not len(owner):
        return blobs
    columns = dict(parts)
    for component in _RELATIVE:
        if component in parts:
            columns[component] = parts[component] - tile * _slides(view)[series]
    starts = np.searchsorted(owner, np.arange(num_owners + 1))
    some = np.flatnonzero(np.diff(starts))  # owners with tiles
    wanted = np.maximum.reduceat(_format_of_each(tile, columns), starts[some])
    of_row = np.repeat(wanted, np.diff(starts)[some])
    for number in range(len(FORMATS)):
        rows = np.flatnonzero(of_row == number)
        if not len(rows):
            continue
        whole = len(rows) == len(owner)
        records = np.empty(len(rows), dtype=dtype_of(view, number))
        place = (series.astype(np.int64) << TILE_BITS[number]) | tile
        records["place"] = place if whole else place[rows]
        for component, values in columns.items():
            records[component] = values if whole else values[rows]
        data, width, head = records.tobytes(), records.dtype.itemsize, bytes([number])
        mine = some[wanted == number]
        ends = np.cumsum(starts[mine + 1] - starts[mine]) * width
        cut = [head + data[begin:end] for begin, end in pairwise([0, *ends.tolist()])]
        if len(mine) == num_owners:
            return cut
        for who, blob in zip(mine.tolist(), cut, strict=True):
            blobs[who] = blob
    return blobs


def decode(
    view: View, blobs: Sequence[bytes | None]
) -> tuple[Int64s, NDArray[np.uint8], Int64s, dict[Component, Int64s]]:
    """Give owner, series, tile and components of the tiles in ``blobs`` (``None`` has none).

    Raises:
        FeatureError: when one is not a whole number of tiles of this view.
    """
    filled = [(who, blob) for who, blob in enumerate(blobs) if blob]
    formats = sorted({blob[0] for _, blob in filled})
    if formats and formats[-1] >= len(FORMATS):
        raise damaged(view, f"format {formats[-1]}")
    if not filled:
        none = np.empty(0, dtype=np.int64)
        return none, none.astype(np.uint8), none, dict.fromkeys(view.components, none)
    found = []
    for number in formats:
        mine = filled if len(formats) == 1 else [one for one in filled if one[1][0] == number]
        dtype = _dtype(view.components, number)
        lengths = np.array([len(blob) - 1 for _, blob in mine])
        counts = lengths // dtype.itemsize
        if (counts * dtype.itemsize != lengths).any():
            wrong = lengths[counts * dtype.itemsize != lengths][0]
            raise damaged(view, f"{wrong} bytes of {dtype.itemsize} each")
        records = np.frombuffer(b"".join([blob[1:] for _, blob in mine]), dtype=dtype)
        owner = np.array([who for who, _ in mine]).repeat(counts)
        place = records["place"].astype(np.int64)
        bits = TILE_BITS[number]
        columns = [owner, place >> bits, place & ((1 << bits) - 1)]
        found.append([*columns, *(records[c].astype(np.int64) for c in view.components)])
    columns = found[0]
    if len(found) > 1:
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        columns = [column[order] for column in columns]
    owner, series, tile = columns[:3]
    if len(series) and series.max() >= len(view.series):
        raise damaged(view, f"series {series.max()} of {len(view.series)}")
    parts = dict(zip(view.components, columns[3:], strict=True))
    for component in _RELATIVE:
        if component in parts:
            parts[component] = parts[component] + tile * _slides(view)[series]
    return owner, series.astype(np.uint8), tile, parts


def _format_of_each(tile: Int64s, columns: dict[Component, Int64s]) -> NDArray[np.uint8]:
    """Give the narrowest format that each tile fits, ``[N]``."""
    wide = tile >= 1 << TILE_BITS[0]
    for component, values in columns.items():
        if component == "count":
            wide |= values >= 1 << 16
        elif values.max() >= 1 << 31 or values.min() < -(1 << 31):
            wide |= (values >= 1 << 31) | (values < -(1 << 31))
    numbers = (columns["count"] >= 1 << 8).astype(np.uint8)
    numbers[wide] = 2
    return numbers


def _slides(view: View) -> Int64s:
    return np.array([s.slide_ms for s in view.series], dtype=np.int64)


def damaged(view: View, found: str) -> FeatureError:
    """Give the error for a blob that is none."""
    return FeatureError(
        f'state of view "{view.name}": wanted whole tiles in one of {len(FORMATS)} formats, '
        f"found {found}; run `recsys backfill`"
    )
