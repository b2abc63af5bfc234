"""How the interactions of a history lie in Redis: each item once, each time as the step to it.

``u16 N | u16 D | i64 first time in ms | D x i64 hashes of items, ascending | N x place of the item
among them, u8 when D <= 256, else u16 | N x milliseconds since the interaction before, varint``,
little-endian; nothing at all for no interactions. A heavy user's 512 interactions with 250 items
take 3 to 4 kB in place of 8.

Axes: ``N`` interactions of ``Q`` users, sorted by ``(owner, time, item)``; ``D`` distinct items.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Int64s

_HEAD = struct.Struct("<HHq")
_SMALL = 256
"""Items whose places fit into a byte."""
_MAX_VARINT = 9
"""Bytes of the longest step, 63 bits."""
_Parts = tuple[Int64s, Int64s, Int64s]


def encode(owner: Int64s, item: Int64s, time_ms: Int64s, num_owners: int) -> list[bytes]:
    """Encode, one blob for each user."""
    blobs = [b""] * num_owners
    if not len(owner):
        return blobs
    starts = np.searchsorted(owner, np.arange(num_owners + 1))
    place, items, item_starts = _places(owner, item, num_owners)
    first = np.ones(len(owner), dtype=np.bool_)
    first[1:] = owner[1:] != owner[:-1]
    steps = np.where(first, 0, np.diff(time_ms, prepend=time_ms[:1]))
    flat_steps, step_starts = _varints(steps)
    ends = step_starts[starts].tolist()
    items_data, small, large = (
        array.tobytes() for array in (items.astype("<i8"), place.astype("u1"), place.astype("<u2"))
    )
    begins, item_begins = starts.tolist(), item_starts.tolist()
    for who in np.flatnonzero(np.diff(starts)).tolist():
        begin, end = begins[who], begins[who + 1]
        first_item, last_item = item_begins[who], item_begins[who + 1]
        num = last_item - first_item
        blobs[who] = (
            _HEAD.pack(end - begin, num, time_ms[begin])
            + items_data[8 * first_item : 8 * last_item]
            + (small[begin:end] if num <= _SMALL else large[2 * begin : 2 * end])
            + flat_steps[ends[who] : ends[who + 1]]
        )
    return blobs


def decode(blobs: Sequence[bytes | None]) -> _Parts:
    """Give owner, item and time of each interaction; ``None`` has none.

    Raises:
        FeatureError: when a blob is damaged.
    """
    who: list[int] = []
    nums: list[int] = []
    num_items: list[int] = []
    bases: list[int] = []
    is_small: list[bool] = []
    items: list[bytes] = []
    small: list[bytes] = []
    large: list[bytes] = []
    steps: list[bytes] = []
    for n, blob in enumerate(blobs):
        if not blob:
            continue
        if len(blob) < _HEAD.size:
            raise _damaged(f"{len(blob)} bytes")
        num, distinct, base = _HEAD.unpack_from(blob)
        at = _HEAD.size + 8 * distinct
        wide = 1 if distinct <= _SMALL else 2
        if len(blob) < at + (wide + 1) * num:
            raise _damaged(f"{len(blob)} bytes for {num} interactions with {distinct} items")
        who.append(n)
        nums.append(num)
        num_items.append(distinct)
        bases.append(base)
        items.append(blob[_HEAD.size : at])
        is_small.append(wide == 1)
        (small if wide == 1 else large).append(blob[at : at + wide * num])
        steps.append(blob[at + wide * num :])
    if not who:
        none = np.empty(0, dtype=np.int64)
        return none, none, none
    counts = np.array(nums, dtype=np.int64)
    step, num_steps = _read_varints(steps)
    if (num_steps != counts).any():
        raise _damaged(f"{int(num_steps.sum())} steps for {int(counts.sum())} interactions")
    row = np.repeat(np.arange(len(who)), counts)
    begins = np.cumsum(counts) - counts
    sums = np.cumsum(step)
    time_ms = sums - (sums[begins] - step[begins])[row] + np.array(bases, dtype=np.int64)[row]
    place = np.empty(len(row), dtype=np.int64)
    of_small = np.repeat(np.array(is_small), counts)
    place[of_small] = np.frombuffer(b"".join(small), dtype="u1")
    place[~of_small] = np.frombuffer(b"".join(large), dtype="<u2")
    distinct_items = np.array(num_items, dtype=np.int64)
    if (place >= distinct_items[row]).any():
        raise _damaged("a place beyond its items")
    hashes = np.frombuffer(b"".join(items), dtype="<i8")
    item_begins = np.cumsum(distinct_items) - distinct_items
    item = hashes[item_begins[row] + place].astype(np.int64)
    return np.array(who, dtype=np.int64)[row], item, time_ms


def _places(owner: Int64s, item: Int64s, num_owners: int) -> _Parts:
    """Give the place of each interaction's item, all users' items, and where each user's begin."""
    order = np.lexsort((item, owner))
    new = np.ones(len(order), dtype=np.bool_)
    sorted_owner, sorted_item = owner[order], item[order]
    new[1:] = (sorted_owner[1:] != sorted_owner[:-1]) | (sorted_item[1:] != sorted_item[:-1])
    starts = np.searchsorted(sorted_owner[new], np.arange(num_owners + 1))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(new) - 1 - starts[sorted_owner]
    return place, sorted_item[new], starts


def _varints(values: Int64s) -> tuple[bytes, Int64s]:
    """Encode numbers >= 0, seven bits a byte; gives where each begins, and the end."""
    lengths = np.ones(len(values), dtype=np.int64)
    for n in range(1, _MAX_VARINT):
        lengths += values >= 1 << (7 * n)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = np.empty(int(starts[-1]), dtype=np.uint8)
    for n in range(int(lengths.max())):
        rows = np.flatnonzero(lengths > n)
        more = (lengths[rows] > n + 1) * 0x80
        data[starts[rows] + n] = values[rows] >> (7 * n) & 0x7F | more
    return data.tobytes(), starts


def _read_varints(pieces: Sequence[bytes]) -> tuple[Int64s, Int64s]:
    """Decode numbers; gives them, and how many there are in each piece."""
    data = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    is_last: NDArray[np.bool_] = data < 0x80
    ends = np.flatnonzero(is_last)
    bounds = np.cumsum([len(piece) for piece in pieces])
    if not len(ends) or not is_last[bounds - 1].all():
        raise _damaged("a step that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if shift.max() >= _MAX_VARINT:
        raise _damaged("a step of more than 63 bits")
    values = np.add.reduceat((data & 0x7F).astype(np.int64) << (7 * shift), starts)
    return values, np.diff(np.searchsorted(ends, bounds), prepend=0)


def _damaged(what: str) -> FeatureError:
    return FeatureError(
        f"state of a history: wanted what `recsys.features.history_codec` writes, found {what}; "
        "run `recsys backfill`"
    )
