"""Feast's bytes in Redis, written and read without Feast.

One hash for each entity: its name is the serialised entity key and the project, its fields are
hashes of ``view:feature`` with values as ``feast.types.Value`` messages, and ``_ts:view`` with a
``google.protobuf.Timestamp``. ``tests/features/test_feast_compatibility.py`` holds this file to the
SDK in both directions. Source: ``key_encoding_utils.py``, ``online_stores/helpers.py`` and
``online_stores/redis.py`` of Feast 0.67.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from recsys.errors import FeatureError
from recsys.features.batch import Float32s, Int64s
from recsys.features.view import ValueType, View

Value = (
    float | int | bool | str | bytes
    | list[str] | list[int] | list[float] | list[bytes] | list[bool] | None
)  # fmt: skip

_STRING_TYPE = 2


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """Give the part of an entity key that all entities of these (sorted) join keys share."""
    parts = [struct.pack("<I", len(join_keys))]
    for name in join_keys:
        encoded = name.encode()
        parts.append(struct.pack("<II", _STRING_TYPE, len(encoded)) + encoded)
    return b"".join(parts)


class EntityKeys:
    """Redis keys of the entities of a view, or of (sorted) join keys."""

    def __init__(self, view: View | Sequence[str], project: str) -> None:
        self._prefix = key_prefix(view.join_keys if isinstance(view, View) else view)
        self._project = project.encode()

    def of(self, *values: str) -> bytes:
        """Give the key of an entity; ``values`` in the order of ``View.join_keys``."""
        parts = [self._prefix]
        for value in values:
            encoded = value.encode()
            parts.append(struct.pack("<II", _STRING_TYPE, len(encoded)))
            parts.append(encoded)
        parts.append(self._project)
        return b"".join(parts)

    def values_of(self, key: bytes) -> tuple[str, ...] | None:
        """Give the values that ``of`` makes this key of; ``None`` for another entity's."""
        parsed = _parse(key) if key.startswith(self._prefix) else None
        return None if parsed is None else tuple(value.decode() for value in parsed.values)

    def of_all(self, many: Sequence[tuple[str, ...]]) -> list[bytes]:
        """Give the keys of many entities; half the time of one after the other."""
        if not many:
            return []
        columns: list[list[bytes]] = []
        for values in zip(*many, strict=True):
            encoded = list(map(str.encode, values))
            heads = {
                length: struct.pack("<II", _STRING_TYPE, length)
                for length in set(map(len, encoded))
            }
            columns.append([heads[len(value)] + value for value in encoded])
        prefix, project = self._prefix, self._project
        if len(columns) == 1:
            return [prefix + value + project for value in columns[0]]
        return [prefix + b"".join(parts) + project for parts in zip(*columns, strict=True)]


def ending_of_user(user_id: str, project: str) -> bytes:
    """Give how the names of all hashes of a user end, whatever else they are keyed by.

    Join keys are sorted and ``user_id`` comes last. An item of the same id ends so, too:
    ``is_keyed_by_user`` tells them apart.
    """
    encoded = user_id.encode()
    return struct.pack("<II", _STRING_TYPE, len(encoded)) + encoded + project.encode()


def is_keyed_by_user(key: bytes) -> bool:
    """Say whether ``user_id`` is among the join keys of an entity key."""
    parsed = _parse(key)
    return parsed is not None and b"user_id" in parsed.join_keys


def project_of_key(key: bytes) -> str | None:
    """Give the project an entity key belongs to; ``None`` for a key of another kind."""
    parsed = _parse(key)
    return None if parsed is None else parsed.project


class _Parsed(NamedTuple):
    """What an entity key is made of."""

    join_keys: list[bytes]
    values: list[bytes]
    project: str


def _parse(key: bytes) -> _Parsed | None:
    """Take a key apart; ``None`` for a key of another kind."""
    try:
        (count,) = struct.unpack_from("<I", key)
        if not 1 <= count <= 16:
            return None
        at = 4
        parts: list[bytes] = []
        for _ in range(2 * count):  # names of the join keys, then values: type, length, bytes
            kind, length = struct.unpack_from("<II", key, at)
            at += 8 + length
            if kind > 64 or at > len(key):
                return None
            parts.append(key[at - length : at])
        return _Parsed(parts[:count], parts[count:], key[at:].decode())
    except (struct.error, UnicodeDecodeError):
        return None


def varint(value: int) -> bytes:
    """Encode a whole number as protobuf does, a negative one as its two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def list_head(number: int, size: int) -> bytes:
    """Give the bytes before ``size`` bytes of packed elements of a list."""
    if not size:
        return varint(number << 3 | 2) + b"\x00"
    inner = b"\n" + varint(size)
    return varint(number << 3 | 2) + varint(len(inner) + size) + inner


def encode_string(value: str) -> bytes:
    """Encode a string feature."""
    encoded = value.encode()
    return b"\x12" + varint(len(encoded)) + encoded


def encode_int64(value: int) -> bytes:
    """Encode an int64 feature."""
    return b"\x20" + varint(value)


def encode_float64(value: float | None) -> bytes:
    """Encode a float64 feature; ``None`` is Feast's null, no bytes at all."""
    return b"" if value is None else b"\x29" + struct.pack("<d", value)


def encode_bool(value: bool) -> bytes:
    """Encode a bool feature."""
    return b"\x38\x01" if value else b"\x38\x00"


def encode_strings(values: Sequence[str]) -> bytes:
    """Encode a string-list feature."""
    parts = []
    for value in values:
        encoded = value.encode()
        length = len(encoded)
        parts.append(b"\n" + bytes((length,)) if length < 128 else b"\n" + varint(length))
        parts.append(encoded)
    body = b"".join(parts)
    return b"\x62" + varint(len(body)) + body


def encode_int64_lists(values: Int64s, offsets: Int64s) -> list[bytes]:
    """Encode an int64-list feature of many entities; row ``i`` is ``offsets[i]:offsets[i + 1]``."""
    unsigned = values.astype(np.uint64)
    # Bytes of each varint: 1 below 2^7, 2 below 2^14 … 10 for a negative one.
    limits = np.uint64(1) << (np.uint64(7) * np.arange(1, 10, dtype=np.uint64))
    sizes = 1 + np.searchsorted(limits, unsigned, side="right")
    width = int(sizes.max()) if len(sizes) else 1
    place = np.arange(width, dtype=np.uint64)
    digits = ((unsigned[:, None] >> (np.uint64(7) * place)) & np.uint64(0x7F)).astype(np.uint8)
    column = np.arange(width)
    digits[column < (sizes - 1)[:, None]] |= 0x80
    data = digits[column < sizes[:, None]].tobytes()
    ends = np.concatenate([[0], np.cumsum(sizes)])[offsets].tolist()
    encoded = []
    for begin, end in pairwise(ends):
        if begin == end:
            encoded.append(b"\x72\x00")
            continue
        body = b"\n" + varint(end - begin) + data[begin:end]
        encoded.append(b"\x72" + varint(len(body)) + body)
    return encoded


def encode_float32_lists(values: Float32s, offsets: Int64s) -> list[bytes]:
    """Encode a float32-list feature of entities; row ``i`` is ``offsets[i]:offsets[i + 1]``."""
    data = np.ascontiguousarray(values, dtype="<f4").tobytes()
    encoded = []
    for begin, end in pairwise((4 * offsets).tolist()):
        if begin == end:
            encoded.append(b"\x82\x01\x00")
            continue
        body = b"\n" + varint(end - begin) + data[begin:end]
        encoded.append(b"\x82\x01" + varint(len(body)) + body)
    return encoded


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
    if len(data) == 12 and data[0] == 8 and data[6] == 16:
        _, a, b, c, d, e, _, v, w, x, y, z = data
        if a & b & c & d & v & w & x & y & 0x80 and not (e | z) & 0x80:
            s = a & 127 | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | e << 28
            nanos = v & 127 | (w & 127) << 7 | (x & 127) << 14 | (y & 127) << 21 | z << 28
            return s * 1_000_000 + nanos // 1000
    try:
        fields = dict(_fields(data))
        seconds, nanos = _signed(fields.get(1, 0)), _signed(fields.get(2, 0))
    except (ValueError, IndexError) as error:
        raise FeatureError(f"wanted the bytes of a Timestamp, found {data[:40]!r}") from error
    return seconds * 1_000_000 + nanos // 1000


FIELD_OF_TYPE: dict[ValueType, int] = {
    "bytes": 1, "string": 2, "int32": 3, "int64": 4, "float64": 5, "float32": 6, "bool": 7,
    "timestamp": 8, "bytes_list": 11, "string_list": 12, "int32_list": 13, "int64_list": 14,
    "float64_list": 15, "float32_list": 16, "bool_list": 17, "timestamp_list": 18,
}  # fmt: skip
"""Numbers of the fields of ``feast.types.Value``."""


def decode_value(data: bytes | None, wanted: ValueType | None = None) -> Value:
    """Give the value of a feature; ``None`` when it is absent or null.

    Raises:
        FeatureError: when the bytes hold another type than ``wanted``, or none we know.
    """
    if not data:
        return None
    try:
        fields = list(_fields(data))
        ((number, raw),) = fields
        if wanted is not None and number != FIELD_OF_TYPE[wanted]:
            raise ValueError(f"value field {number}")
        return _decode_field(number, raw)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise FeatureError(
            f"wanted a Feast value of type {wanted or 'any'}, found {data[:40]!r} ({error}); "
            "the view was written by another version of its declaration: run `recsys backfill`"
        ) from error


def _decode_field(number: int, raw: int | bytes) -> Value:
    match number, raw:
        case 1, bytes():
            return raw
        case 2, bytes():
            return raw.decode()
        case 3 | 4 | 8, int():
            return _signed(raw)
        case 5, bytes():
            return float(struct.unpack("<d", raw)[0])
        case 6, bytes():
            return float(struct.unpack("<f", raw)[0])
        case 7, int():
            return bool(raw)
        case 11, bytes():
            return [v for _, v in _fields(raw) if isinstance(v, bytes)]
        case 12, bytes():
            return [v.decode() for _, v in _fields(raw) if isinstance(v, bytes)]
        case 17, bytes():
            return [bool(v) for _, packed in _fields(raw) for v in _packed(packed)]
        case 13 | 14 | 18, bytes():
            return [_signed(v) for _, packed in _fields(raw) for v in _packed(packed)]
        case 15, bytes():
            return [v for _, p in _fields(raw) for (v,) in struct.iter_unpack("<d", _bytes(p))]
        case 16, bytes():
            return [v for _, p in _fields(raw) for (v,) in struct.iter_unpack("<f", _bytes(p))]
    raise ValueError(f"value field {number}")


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise ValueError("a number in place of bytes")
    return raw


def _packed(raw: int | bytes) -> list[int]:
    if isinstance(raw, int):
        return [raw]
    values, at = [], 0
    while at < len(raw):
        value, at = _read_varint(raw, at)
        values.append(value)
    return values


def _signed(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Split a protobuf message into its fields."""
    fields: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            fields.append((number, value))
            continue
        if wire == 2:
            length, at = _read_varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("cut off")
        fields.append((number, data[at : at + length]))
        at += length
    return fields
