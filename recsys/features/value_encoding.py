"""Columns of values as Feast's bytes, and as parts of the rows that the writer's script takes.

A part is a ``u32`` length, little-endian, and as many bytes.

``N`` rows. A column whose values all have one width (floats, vectors, booleans) is framed as one
array ``[N, w]``; any other, and any with nulls, value by value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.batch import Int64s
from recsys.features.protobuf_wire import varint
from recsys.features.time_layout import encode_timestamp_us
from recsys.features.value_columns import element_type
from recsys.features.value_layout import FIELD_OF_TYPE, encode_int64_lists, list_head
from recsys.features.view import Feature, ValueType

Bytes = npt.NDArray[np.uint8]
_LENGTH, _TIME = struct.Struct("<I"), struct.Struct("<dd")
_WIDE: dict[ValueType, tuple[str, bytes]] = {
    "float32": ("<f4", b"\x35"), "float64": ("<f8", b"\x29"), "bool": ("u1", b"\x38")
}  # fmt: skip
_INTEGERS: dict[ValueType, int] = {"int32": 0x18, "int64": 0x20, "timestamp": 0x40}


class Framed(NamedTuple):
    """One column as parts of rows, their lengths included."""

    rows: Bytes | list[bytes]
    """``[N, w]`` where all have one width."""


def frame(values: Sequence[bytes]) -> list[bytes]:
    """Give each value as a part of a row."""
    return [_LENGTH.pack(len(value)) + value for value in values]


def frame_column(feature: Feature, values: Any) -> Framed:
    """Frame a column: an array, a list (``None`` is null), or an Arrow array.

    A float that is NaN is written as null, as Feast does; in a list it stays.

    Raises:
        InputError: when a value is of another type than the feature.
    """
    given, nulls = _with_nulls(values)
    try:
        return _frame(feature, given, nulls)
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        raise InputError(
            f'feature "{feature.name}": wanted {feature.type} values, found {_shown(given)} '
            f"({error})",
            field=feature.name,
        ) from error


def _frame(feature: Feature, given: Any, nulls: npt.NDArray[np.bool_] | None) -> Framed:
    kind = feature.type
    if kind in _WIDE:
        dtype, head = _WIDE[kind]
        filled = given if nulls is None else _filled(given, nulls, False if kind == "bool" else 0)
        if kind == "bool" and any(type(v) not in (bool, np.bool_) for v in filled):
            raise TypeError("a value is no bool")
        column = np.ascontiguousarray(filled, dtype=dtype)
        if column.ndim != 1:
            raise ValueError(f"{column.ndim} dimensions")
        if kind != "bool":
            missing = np.isnan(column)
            nulls = missing if nulls is None else nulls | missing
        body = column.view(np.uint8).reshape(len(column), column.dtype.itemsize)
        return _framed(head, body, nulls)
    if kind == "float32_list" and isinstance(given, np.ndarray) and given.ndim == 2:
        _check_columns(feature, given.shape[1])
        body = np.ascontiguousarray(given, dtype="<f4").view(np.uint8)
        size = 4 * given.shape[1]
        return _framed(list_head(16, size), body.reshape(len(given), size), nulls)
    plain = given.tolist() if isinstance(given, np.ndarray) else list(given)
    gone = [v is None for v in plain] if nulls is None else nulls.tolist()
    if kind in _INTEGERS:
        encoded = _integers(kind, plain, gone)
    else:
        element = element_type(kind)
        encoded = [
            b""
            if null
            else (_text(kind, value) if element is None else _list(feature, element, value))
            for value, null in zip(plain, gone, strict=True)
        ]
    return Framed(frame(encoded))


def _framed(head: bytes, body: Bytes, nulls: npt.NDArray[np.bool_] | None) -> Framed:
    start = _LENGTH.pack(len(head) + body.shape[1]) + head
    cells = np.empty((len(body), len(start) + body.shape[1]), dtype=np.uint8)
    cells[:, : len(start)] = np.frombuffer(start, dtype=np.uint8)
    cells[:, len(start) :] = body
    if nulls is None or not nulls.any():
        return Framed(cells)
    rows = as_list(cells)
    for position in np.flatnonzero(nulls).tolist():
        rows[position] = _LENGTH.pack(0)
    return Framed(rows)


def as_list(cells: Bytes) -> list[bytes]:
    """Give each row of ``[N, w]`` as bytes."""
    rows: list[bytes] = (
        np.ascontiguousarray(cells).view(f"V{cells.shape[1]}").ravel().tolist()
        if cells.size
        else [b""] * len(cells)
    )
    return rows


def join_columns(columns: Sequence[Framed], num_rows: int) -> tuple[list[int], list[bytes]]:
    """Put columns side by side: their order in a row, and each row's bytes."""
    wide = [i for i, column in enumerate(columns) if isinstance(column.rows, np.ndarray)]
    rest = [i for i in range(len(columns)) if i not in set(wide)]
    parts: list[list[bytes]] = []
    if wide:
        parts.append(as_list(np.concatenate([columns[i].rows for i in wide], axis=1)))
    parts += [columns[i].rows for i in rest]  # type: ignore[misc]
    if not parts:
        return [], [b""] * num_rows
    rows = parts[0] if len(parts) == 1 else [b"".join(row) for row in zip(*parts, strict=True)]
    return [*wide, *rest], rows


def frame_times(times_us: Int64s) -> list[bytes]:
    """Encode event times as ``google.protobuf.Timestamp``, and give each as the begin of a row.

    Its seconds and nanoseconds come before it, as float64: a server that compares need not decode.
    """
    seconds, micros = np.divmod(times_us, 1_000_000)
    if not len(times_us):
        return []
    if seconds.min() < 1 << 28 or seconds.max() >= 1 << 35:  # before 1978
        framed = frame(list(map(encode_timestamp_us, times_us.tolist())))
        heads = map(_TIME.pack, seconds.tolist(), (micros * 1000).tolist())
        return [head + one for head, one in zip(heads, framed, strict=True)]
    nanos = micros * 1000
    cells = np.zeros((len(times_us), 32), dtype=np.uint8)
    cells[:, :16] = np.stack([seconds, nanos], axis=1).astype("<f8").view(np.uint8)
    cells[:, 20], cells[:, 26] = 0x08, 0x10
    shifts = np.int64(7) * np.arange(5, dtype=np.int64)
    cells[:, 21:26] = (seconds[:, None] >> shifts) & 0x7F
    cells[:, 21:25] |= 0x80
    cells[:, 27:] = (nanos[:, None] >> shifts) & 0x7F
    sizes = 1 + np.searchsorted(np.int64(1) << shifts[1:], nanos, side="right")
    cells[:, 27:][np.arange(5) < (sizes - 1)[:, None]] |= 0x80
    lengths = np.where(nanos > 0, 7 + sizes, 6)
    cells[:, 16] = lengths  # a u32, of which the rest is zero
    data = cells.tobytes()
    starts = range(0, len(data), 32)
    return [data[at : at + n] for at, n in zip(starts, (lengths + 20).tolist(), strict=True)]


def _with_nulls(values: Any) -> tuple[Any, npt.NDArray[np.bool_] | None]:
    if hasattr(values, "is_null") and hasattr(values, "to_pylist"):  # of Arrow, not imported here
        nulls = np.asarray(values.is_null())
        kind = str(values.type)
        if kind.startswith("timestamp"):
            values = values.cast("timestamp[us]").cast("int64")
            seconds = np.asarray(values.fill_null(0)) // 1_000_000
            return seconds, nulls if nulls.any() else None
        if kind.startswith(("float", "double", "int", "uint")):
            given = values.fill_null(0) if nulls.any() else values
            return given.to_numpy(), nulls if nulls.any() else None
        if kind.startswith("fixed_size_list<") and not nulls.any():
            flat = values.combine_chunks() if hasattr(values, "combine_chunks") else values
            return flat.flatten().to_numpy().reshape(len(flat), -1), None
        return values.to_pylist(), nulls if nulls.any() else None
    if isinstance(values, np.ma.MaskedArray):
        return values.filled(), np.ma.getmaskarray(values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.dtype.kind == "M":
            nulls = np.isnat(values)
            return values.astype("datetime64[s]").astype(np.int64), nulls if nulls.any() else None
        return values, None
    nulls = np.fromiter((v is None for v in values), dtype=np.bool_, count=len(values))
    return values, nulls if nulls.any() else None


def _filled(given: Any, nulls: npt.NDArray[np.bool_], value: Any) -> list[Any]:
    if isinstance(given, np.ndarray) and given.dtype != object:
        return list(given)
    return [value if null else v for v, null in zip(given, nulls.tolist(), strict=True)]


def _integers(kind: ValueType, values: list[Any], gone: list[bool]) -> list[bytes]:
    bounds = np.iinfo(np.int32 if kind == "int32" else np.int64)
    head = bytes((_INTEGERS[kind],))
    encoded = []
    for value, null in zip(values, gone, strict=True):
        if null:
            encoded.append(b"")
            continue
        if type(value) is not int:
            raise TypeError(f"{value!r} is no whole number")
        if not bounds.min <= value <= bounds.max:
            raise OverflowError(f"{value} does not fit")
        encoded.append(head + varint(value))
    return encoded


def _text(kind: ValueType, value: Any) -> bytes:
    data = value.encode() if kind == "string" else memoryview(value).tobytes()
    return bytes((FIELD_OF_TYPE[kind] << 3 | 2,)) + varint(len(data)) + data


def _list(feature: Feature, element: ValueType, values: Any) -> bytes:
    number = FIELD_OF_TYPE[feature.type]
    _check_columns(feature, len(values))
    if element in ("string", "bytes"):
        texts = [v.encode() if element == "string" else memoryview(v).tobytes() for v in values]
        body = b"".join([b"\n" + varint(len(text)) + text for text in texts])
        return varint(number << 3 | 2) + varint(len(body)) + body
    if element in ("float32", "float64"):
        body = np.asarray(values, dtype="<f4" if element == "float32" else "<f8").tobytes()
    elif element == "bool":
        body = bytes(map(bool, values))
    else:
        numbers = np.asarray(values if len(values) else [], dtype=np.int64)
        (packed,) = encode_int64_lists(numbers, np.array([0, len(numbers)]))
        if element == "int64":
            return packed
        body = b"".join([varint(v) for v in numbers.tolist()])
    return list_head(number, len(body)) + body


def _check_columns(feature: Feature, found: int) -> None:
    if feature.columns and found != len(feature.columns):
        raise ValueError(f"a vector of {found} columns in place of {len(feature.columns)}")


def _shown(values: Any) -> str:
    return " ".join(repr(values if len(values) <= 3 else values[:3]).split())[:120]
