"""One history out of its bytes, without arrays: what a request reads of a user.

The same bytes and the same meaning as ``history_codec.py`` and ``recency.py`` have for many users.
A history is some ten to 256 interactions, and one array operation costs as much as twenty of them
here: for the one to sixteen users that are read together this takes a third of the time.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from recsys.features.history_body import BODY, SMALL, bytes_of_bits, damaged, inflated
from recsys.features.history_codec import HEAD, read_tail
from recsys.features.names import HISTORY_EVENTS, HISTORY_LENGTH
from recsys.features.varints import MORE


class OneHistory(NamedTuple):
    """Distinct items, least recent first; one of each list for each item."""

    ids: list[bytes]
    counts: list[int]
    last_ms: list[int]


NO_HISTORY = OneHistory([], [], [])


def history_of(blob: bytes, until_ms: int) -> OneHistory:
    """Give the history in ``blob`` (empty: none) by the interactions up to ``until_ms``.

    Raises:
        FeatureError: when the blob is damaged.
    """
    items, times = interactions(blob)
    end = len(times)
    if not end:
        return NO_HISTORY
    if times[-1] > until_ms:
        end = bisect_right(times, until_ms)
    begin = max(0, end - HISTORY_EVENTS)
    if (begin, end) != (0, len(times)):
        items, times = items[begin:end], times[begin:end]
    last_ms = dict(zip(items, times, strict=True))
    if len(last_ms) == len(items):  # each once
        ids = items[-HISTORY_LENGTH:]
        return OneHistory(ids, [1] * len(ids), times[-HISTORY_LENGTH:])
    counts = dict.fromkeys(items, 0)
    for item in items:
        counts[item] += 1
    newest_first = list(dict.fromkeys(reversed(items)))
    ids = newest_first[HISTORY_LENGTH - 1 :: -1]
    return OneHistory(ids, [*map(counts.__getitem__, ids)], [*map(last_ms.__getitem__, ids)])


def interactions(blob: bytes) -> tuple[list[bytes], list[int]]:
    """Give the item and the time of each interaction of one user, in the order of histories.

    Raises:
        FeatureError: when the blob is damaged.
    """
    if not blob:
        return [], []
    if len(blob) < HEAD.size:
        raise damaged(f"{len(blob)} bytes")
    size, base_ms = HEAD.unpack_from(blob)
    begin_of_tail = HEAD.size + size
    if len(blob) < begin_of_tail:
        raise damaged(f"{len(blob)} bytes for a body of {size}")
    items, times = _read_body(blob[HEAD.size : begin_of_tail]) if size else ([], [])
    read_tail(blob, begin_of_tail, base_ms, items, times)
    return items, times


def _read_body(stored: bytes) -> tuple[list[bytes], list[int]]:
    body = inflated(stored)
    if len(body) < BODY.size:
        raise damaged(f"a body of {len(body)} bytes")
    num, distinct, size, first_ms = BODY.unpack_from(body)
    width = 1 if distinct <= SMALL else 2
    num_bytes = bytes_of_bits(num)
    later_at = BODY.size + num_bytes
    again_at = later_at + num_bytes
    varints_at = again_at + width * (num - distinct)
    ids_at = varints_at + size
    if not 0 < distinct <= num or len(body) < ids_at:
        raise damaged(f"a body of {len(body)} bytes for {num} interactions")
    is_first = _bits(body[BODY.size : later_at], num)
    is_later = _bits(body[later_at:again_at], num)
    sizes_at = ids_at - distinct
    sizes: Sequence[int]
    if sizes_at >= varints_at and body[sizes_at - 1] < MORE and body[sizes_at:ids_at].isascii():
        # The size of an id is one byte, as a rule.
        sizes, gaps_ms = body[sizes_at:ids_at], _varints(body[varints_at:sizes_at])
    else:
        numbers = _varints(body[varints_at:ids_at])
        sizes, gaps_ms = numbers[-distinct:], numbers[:-distinct]
    num_later = is_later.count("1")
    if len(gaps_ms) + len(sizes) != num_later + distinct:
        raise damaged(f"{len(gaps_ms) + len(sizes)} numbers for {num} interactions")
    if is_first.count("1") != distinct:
        raise damaged(f"other than {distinct} items")
    ends = list(accumulate(sizes, initial=ids_at))
    if ends[-1] != len(body):
        raise damaged(f"a body of {len(body)} bytes, whose ids end at {ends[-1]}")
    items = ids = [body[begin:end] for begin, end in pairwise(ends)]
    if num > distinct:
        again = body[again_at:varints_at]
        places = iter(again if width == 1 else struct.unpack(f"<{num - distinct}H", again))
        new = iter(ids)
        try:
            items = [next(new) if bit == "1" else ids[next(places)] for bit in is_first]
        except IndexError:
            raise damaged("a place beyond its items") from None
    steps = iter(gaps_ms)
    gaps = [next(steps) if bit == "1" else 0 for bit in is_later]
    gaps[0] += first_ms
    times = list(accumulate(gaps))
    if times[-1] >= 1 << 63:
        raise damaged("a time of more than 63 bits")
    return items, times


def _bits(data: bytes, num: int) -> str:
    return f"{int.from_bytes(data):0{8 * len(data)}b}"[:num]


def _varints(data: bytes) -> list[int]:
    numbers = []
    value = shift = 0
    for byte in data:
        if byte >= MORE:
            value |= (byte & 0x7F) << shift
            shift += 7
            continue
        if shift > 56:
            raise damaged("a step of more than 63 bits")
        numbers.append(value | byte << shift)
        value = shift = 0
    if shift:
        raise damaged("a step that is cut off")
    return numbers
