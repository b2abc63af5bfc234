"""Event times as ``google.protobuf.Timestamp``, as they lie in Redis under ``_ts:view``.

``tests/features/test_feast_compatibility.py`` holds this file to the SDK in both directions.
"""

from __future__ import annotations

import numpy as np

from recsys.errors import FeatureError
from recsys.features.batch import Int64s
from recsys.features.protobuf_wire import fields_of, signed, varint

_NANOS = (b"", *(b"\x10" + varint(ms * 1_000_000) for ms in range(1, 1000)))
"""The nanoseconds of a timestamp, by its milliseconds."""
_MILLISECONDS = {nanos: milliseconds for milliseconds, nanos in enumerate(_NANOS)}


def encode_timestamp(time_ms: int) -> bytes:
    """Encode the event time of a view; epoch ms."""
    s, milliseconds = divmod(time_ms, 1000)
    if 1 << 28 <= s < 1 << 35:  # 1978 to 3058: five bytes, and every write has one or two of these
        low = (8, s & 127 | 128, s >> 7 & 127 | 128, s >> 14 & 127 | 128, s >> 21 & 127 | 128)
        return bytes((*low, s >> 28)) + _NANOS[milliseconds]
    return (b"\x08" + varint(s) if s else b"") + _NANOS[milliseconds]


def encode_timestamps(times_ms: Int64s) -> list[bytes]:
    """Encode many event times; epoch ms, ``[N]``."""
    s = times_ms // 1000
    if len(s) == 0 or s.min() < 1 << 28 or s.max() >= 1 << 35:
        return [encode_timestamp(time_ms) for time_ms in times_ms.tolist()]
    cells = np.empty((len(s), 6), dtype=np.uint8)
    cells[:, 0] = 8
    for n in range(5):
        cells[:, n + 1] = s >> 7 * n & 127 | (128 if n < 4 else 0)
    low, nanos = cells.tobytes(), _NANOS
    after = (times_ms - s * 1000).tolist()
    return [low[6 * n : 6 * n + 6] + nanos[ms] for n, ms in enumerate(after)]


def encode_timestamp_us(time_us: int) -> bytes:
    """Encode the event time of a view; epoch microseconds, as exact as Feast keeps it."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    out = b"\x08" + varint(seconds) if seconds else b""
    return out + b"\x10" + varint(microseconds * 1000) if microseconds else out


def decode_timestamp(data: bytes) -> int:
    """Give the event time of a view as epoch ms (Feast keeps microseconds; they are cut)."""
    milliseconds = _MILLISECONDS.get(data[6:])
    if milliseconds is not None and len(data) > 5 and data[0] == 8 and data[5] < 0x80:
        _, a, b, c, d, e = data[:6]
        if a & b & c & d & 0x80:
            s = a & 127 | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | e << 28
            return s * 1000 + milliseconds
    return decode_timestamp_us(data) // 1000


def decode_timestamp_us(data: bytes) -> int:
    """Give the event time of a view as epoch microseconds.

    Raises:
        FeatureError: when the bytes are no ``google.protobuf.Timestamp``.
    """
    if 11 <= len(data) <= 12 and data[0] == 8 and data[6] == 16:
        _, a, b, c, d, e, _, v, w, x, *rest = data
        y, z = rest if len(rest) == 2 else (rest[0] | 0x80, 0)
        if a & b & c & d & v & w & x & y & 0x80 and not (e | z | rest[-1]) & 0x80:
            s = a & 127 | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | e << 28
            nanos = v & 127 | (w & 127) << 7 | (x & 127) << 14 | (y & 127) << 21 | z << 28
            return s * 1_000_000 + nanos // 1000
    try:
        fields = dict(fields_of(data))
        seconds, nanos = signed(fields.get(1, 0)), signed(fields.get(2, 0))
    except (ValueError, IndexError) as error:
        raise FeatureError(f"wanted the bytes of a Timestamp, found {data[:40]!r}") from error
    return seconds * 1_000_000 + nanos // 1000
