"""Features as ``feast.types.Value`` messages, written and read without Feast.

``tests/features/test_feast_compatibility.py`` holds this file to the SDK in both directions.
Source: ``online_stores/redis.py`` and ``feast/types/Value.proto`` of Feast 0.67.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from recsys.errors import FeatureError
from recsys.features.batch import Float32s, Int64s
from recsys.features.protobuf_wire import fields_of, read_varint, signed, varint
from recsys.features.view import ValueType

Value = (
    float | int | bool | str | bytes
    | list[str] | list[int] | list[float] | list[bytes] | list[bool] | None
)  # fmt: skip

FIELD_OF_TYPE: dict[ValueType, int] = {
    "bytes": 1, "string": 2, "int32": 3, "int64": 4, "float64": 5, "float32": 6, "bool": 7,
    "timestamp": 8, "bytes_list": 11, "string_list": 12, "int32_list": 13, "int64_list": 14,
    "float64_list": 15, "float32_list": 16, "bool_list": 17, "timestamp_list": 18,
}  # fmt: skip
"""Numbers of the fields of ``feast.types.Value``."""


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


def decode_value(data: bytes | None, wanted: ValueType | None = None) -> Value:
    """Give the value of a feature; ``None`` when it is absent or null.

    Raises:
        FeatureError: when the bytes hold another type than ``wanted``, or none we know.
    """
    if not data:
        return None
    try:
        fields = list(fields_of(data))
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
            return signed(raw)
        case 5, bytes():
            return float(struct.unpack("<d", raw)[0])
        case 6, bytes():
            return float(struct.unpack("<f", raw)[0])
        case 7, int():
            return bool(raw)
        case 11, bytes():
            return [v for _, v in fields_of(raw) if isinstance(v, bytes)]
        case 12, bytes():
            return [v.decode() for _, v in fields_of(raw) if isinstance(v, bytes)]
        case 17, bytes():
            return [bool(v) for _, packed in fields_of(raw) for v in _packed(packed)]
        case 13 | 14 | 18, bytes():
            return [signed(v) for _, packed in fields_of(raw) for v in _packed(packed)]
        case 15, bytes():
            return [v for _, p in fields_of(raw) for (v,) in struct.iter_unpack("<d", _bytes(p))]
        case 16, bytes():
            return [v for _, p in fields_of(raw) for (v,) in struct.iter_unpack("<f", _bytes(p))]
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
        value, at = read_varint(raw, at)
        values.append(value)
    return values
