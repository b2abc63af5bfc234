"""Numbers >= 0 in as few bytes as they need: seven bits a byte, the highest says that more follow.

Source: the varints of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Int64s

MORE = 0x80
"""From here on a byte is not the last of its number."""
_MAX_BYTES = 9
"""Of the largest number, 63 bits."""


def varint(value: int) -> bytes:
    """Encode one number."""
    data = bytearray()
    while value >= MORE:
        data.append(value & 0x7F | MORE)
        value >>= 7
    data.append(value)
    return bytes(data)


def varints(values: Int64s) -> tuple[bytes, Int64s]:
    """Encode numbers >= 0, seven bits a byte; gives where each begins, and the end."""
    if not len(values):
        return b"", np.zeros(1, dtype=np.int64)
    lengths = np.ones(len(values), dtype=np.int64)
    largest = int(values.max())
    for n in range(1, _MAX_BYTES):
        if largest < 1 << (7 * n):
            break
        lengths += values >= 1 << (7 * n)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = np.empty(int(starts[-1]), dtype=np.uint8)
    for n in range(int(lengths.max())):
        rows = np.flatnonzero(lengths > n)
        more = (lengths[rows] > n + 1) * MORE
        data[starts[rows] + n] = values[rows] >> (7 * n) & 0x7F | more
    return data.tobytes(), starts


def read_varint(blob: bytes, at: int, low: int) -> tuple[int, int]:
    """Give a number whose first byte is ``low``, and the place after it."""
    value, shift = low & 0x7F, 7
    while (byte := blob[at]) >= MORE:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def read_varints(pieces: Sequence[bytes]) -> tuple[Int64s, Int64s]:
    """Decode numbers; gives them, and how many there are in each piece.

    Raises:
        ValueError: when one is cut off, or of more than 63 bits.
    """
    data = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    is_last: NDArray[np.bool_] = data < MORE
    ends = np.flatnonzero(is_last)
    bounds = np.cumsum([len(piece) for piece in pieces])
    if not len(ends) or not is_last[bounds - 1].all():
        raise ValueError("a step that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if shift.max() >= _MAX_BYTES:
        raise ValueError("a step of more than 63 bits")
    values = np.add.reduceat((data & 0x7F).astype(np.int64) << (7 * shift), starts)
    return values, np.diff(np.searchsorted(ends, bounds), prepend=0)
