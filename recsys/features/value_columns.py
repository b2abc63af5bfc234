"""Columns of stored values: from the bytes of many entities to dense NumPy arrays, and masks.

``N`` entities, ``F`` float32 features, ``D`` elements of a vector.

Values of one type have one header (a float32 is ``35`` and four bytes), so a column is joined, its
headers are compared at once, and the rest is the array. A column with nulls, with gaps or with a
value of another type is looked at value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import FeatureError
from recsys.features.batch import Float32s, Int64s
from recsys.features.time_layout import decode_timestamp_us
from recsys.features.value_layout import decode_value, list_head
from recsys.features.view import ValueType

Masks = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]


class Mask(IntEnum):
    """What is known of one value. (Feast calls all four PRESENT.)"""

    PRESENT = 0
    NULL = 1
    """It was written as null."""
    EXPIRED = 2
    """The view's newest event is older than its TTL; the value counts as absent."""
    MISSING = 3
    """It was never written."""


@dataclass(frozen=True, slots=True)
class RaggedColumn:
    """Lists of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Values
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> Values:
        """Give one row."""
        part: Values = self.values[self.offsets[index] : self.offsets[index + 1]]
        return part


_DTYPES: dict[ValueType, Any] = {
    "float32": np.float32, "float64": np.float64, "int32": np.int32, "int64": np.int64,
    "timestamp": np.int64, "bool": np.bool_, "string": np.object_, "bytes": np.object_,
}  # fmt: skip
_EMPTY: dict[ValueType, Any] = {
    "float32": np.nan, "float64": np.nan, "int32": 0, "int64": 0, "timestamp": 0, "bool": False,
    "string": None, "bytes": None,
}  # fmt: skip
_FLOAT_SIZE = 5
_VARINT_TAGS: dict[ValueType, int] = {
    "int32": 0x18, "int64": 0x20, "bool": 0x38, "timestamp": 0x40
}  # fmt: skip
_SHIFTS = np.uint64(7) * np.arange(10, dtype=np.uint64)


def element_type(kind: ValueType) -> ValueType | None:
    """Give the type of a list's elements; ``None`` when it is no list."""
    return kind.removesuffix("_list") if kind.endswith("_list") else None  # type: ignore[return-value]


def decode_float_rows(
    rows: Sequence[Sequence[bytes | None]], num_columns: int
) -> tuple[Float32s, Masks]:
    """Decode the first ``F`` values of each row, all float32.

    Gives ``[N, F]`` values, NaN where there is none, and ``[N, F]`` masks.

    Raises:
        FeatureError: when a value is no float32.
    """
    num_rows = len(rows)
    if not num_rows or not num_columns:
        shape = (num_rows, num_columns)
        return np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.uint8)
    first = list(map(itemgetter(slice(num_columns)), rows))
    try:
        data = b"".join(map(b"".join, first))
    except TypeError:  # a value is missing
        return _decode_odd_rows(first, num_columns)
    if len(data) != num_rows * num_columns * _FLOAT_SIZE:
        return _decode_odd_rows(first, num_columns)
    if data[::_FLOAT_SIZE] != FLOAT_HEAD * (num_rows * num_columns):
        return _decode_odd_rows(first, num_columns)
    values: Float32s = np.ndarray(
        (num_rows, num_columns), "<f4", data, 1, (num_columns * _FLOAT_SIZE, _FLOAT_SIZE)
    ).copy()
    return values, np.zeros((num_rows, num_columns), dtype=np.uint8)


FLOAT_HEAD = b"\x35"
"""What stands before a float32."""
_NO_FLOAT = b"\x35\x00\x00\xc0\x7f"


def _decode_odd_rows(
    rows: Sequence[Sequence[bytes | None]], num_columns: int
) -> tuple[Float32s, Masks]:
    """Decode rows of which some have gaps: each value is looked at."""
    flat = list(chain.from_iterable(rows))
    masks = np.zeros(len(flat), dtype=np.uint8)
    for position, value in enumerate(flat):
        if not value:
            masks[position] = Mask.MISSING if value is None else Mask.NULL
            flat[position] = _NO_FLOAT
        elif len(value) != _FLOAT_SIZE or value[0] != 0x35:
            decode_value(value, "float32")  # says what is wrong with it
            raise FeatureError(f"wanted a Feast value of type float32, found {value[:40]!r}")
    data = b"".join(flat)  # type: ignore[arg-type]
    cells = np.frombuffer(data, dtype=np.uint8).reshape(-1, _FLOAT_SIZE)
    values = np.ascontiguousarray(cells[:, 1:]).view("<f4").reshape(-1, num_columns)
    return values, masks.reshape(-1, num_columns)


@lru_cache(maxsize=256)
def vector_head(size: int) -> bytes:
    """Give what stands before the floats of a vector of ``size`` columns."""
    return list_head(16, 4 * size)


def decode_vectors(values: Sequence[bytes | None], size: int) -> tuple[Float32s, Masks]:
    """Decode float32 lists of ``D`` elements each: ``[N, D]``, NaN rows where there is none.

    Raises:
        FeatureError: when a list has another length, or is none of float32.
    """
    head = vector_head(size)
    width = len(head) + 4 * size
    count = len(values)
    if count == 1 and (value := values[0]) and len(value) == width and value.startswith(head):
        vector = np.frombuffer(value, "<f4", size, len(head)).reshape(1, size).copy()
        return vector, np.zeros(1, dtype=np.uint8)
    masks = np.zeros(count, dtype=np.uint8)
    try:
        data = b"".join(values)  # type: ignore[arg-type]
    except TypeError:
        data = b""
    # A value of another length has another header, so the first of them is noticed below.
    if len(data) != count * width:
        empty = head + size * _NO_FLOAT[1:]
        known = list(values)
        for position, value in enumerate(known):
            if not value:
                masks[position] = Mask.MISSING if value is None else Mask.NULL
                known[position] = empty
            elif len(value) != width:
                _refuse_vector(value, size)
        data = b"".join(known)  # type: ignore[arg-type]
    cells = np.frombuffer(data, dtype=np.uint8).reshape(count, width)
    is_wrong = cells[:, : len(head)] != np.frombuffer(head, dtype=np.uint8)
    if is_wrong.any():
        _refuse_vector(values[int(np.argmax(is_wrong.any(axis=1)))] or b"", size)
    vectors = np.ascontiguousarray(cells[:, len(head) :]).view("<f4")
    return vectors.reshape(count, size), masks


def _refuse_vector(value: bytes, size: int) -> None:
    found = decode_value(value, "float32_list")
    length = len(found) if isinstance(found, list) else 0
    raise FeatureError(
        f"wanted a vector of {size} columns, found one of {length}; "
        "it was written under another declaration: write the view anew"
    )


def decode_column(
    values: Sequence[bytes | None], kind: ValueType
) -> tuple[Values | RaggedColumn, Masks]:
    """Decode one value of each entity: an array ``[N]``, or lists, and masks ``[N]``.

    Where there is no value: NaN, 0, false, ``None`` or an empty list.

    Raises:
        FeatureError: when a value is of another type.
    """
    masks = np.fromiter(
        (0 if v else Mask.MISSING if v is None else Mask.NULL for v in values),
        dtype=np.uint8,
        count=len(values),
    )
    element = element_type(kind)
    if element is not None:
        return _decode_lists(values, kind, element), masks
    if kind in _VARINT_TAGS and (fast := _decode_varints(values, kind)) is not None:
        return fast, masks
    out: Values = np.full(len(values), _EMPTY[kind], dtype=_DTYPES[kind])
    for position in np.flatnonzero(masks == 0).tolist():
        out[position] = decode_value(values[position], kind)
    return out, masks


def _decode_varints(values: Sequence[bytes | None], kind: ValueType) -> Values | None:
    """Decode whole numbers all at once; ``None`` when a header is not what it should be."""
    tag = _VARINT_TAGS[kind]
    empty = bytes((tag, 0))
    filled = [value or empty for value in values]
    if not filled or max(map(len, filled)) > 11:
        return None if filled else np.empty(0, dtype=_DTYPES[kind])
    cells = np.array(filled, dtype="S11").view(np.uint8).reshape(len(filled), 11)
    lengths = np.fromiter(map(len, filled), dtype=np.int64, count=len(filled))
    goes_on = (cells[:, 1:] & 0x80).astype(np.bool_)
    if (cells[:, 0] != tag).any() or (goes_on.sum(axis=1) != lengths - 2).any():
        return None
    numbers = ((cells[:, 1:] & 0x7F).astype(np.uint64) << _SHIFTS).sum(axis=1, dtype=np.uint64)
    column: Values = numbers.view(np.int64).astype(_DTYPES[kind])
    return column


def _decode_lists(
    values: Sequence[bytes | None], kind: ValueType, element: ValueType
) -> RaggedColumn:
    decoded = [decode_value(value, kind) or [] for value in values]
    lengths = [len(row) for row in decoded]  # type: ignore[arg-type]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.empty(int(offsets[-1]), dtype=_DTYPES[element])
    flat[:] = list(chain.from_iterable(decoded))  # type: ignore[arg-type]
    return RaggedColumn(flat, offsets)


_PLACES = np.zeros((16, 2), dtype=np.int64)
_PLACES[1:6, 0] = _PLACES[7:12, 1] = np.int64(1) << np.int64(7) * np.arange(5, dtype=np.int64)
# Of these days: tag, five bytes of seconds, tag, up to five bytes of nanoseconds.
_REGULAR_BITS = int.from_bytes(b"\xff\x80\x80\x80\x80\x80\xff", "little")
_REGULAR = int.from_bytes(b"\x08\x80\x80\x80\x80\x00\x10", "little")
_FEW = 16
"""Values up to which a loop is faster than arrays."""


def decode_timestamps(
    values: Sequence[bytes | None],
) -> tuple[Int64s, npt.NDArray[np.bool_] | None]:
    """Decode event times: epoch microseconds ``[N]``, 0 where there is none.

    The second is where there is none, ``None`` when all are there.

    Raises:
        FeatureError: when bytes are no ``google.protobuf.Timestamp``.
    """
    count, missing = len(values), None
    try:
        longest = max(map(len, values), default=0)  # type: ignore[arg-type]
    except TypeError:
        missing = np.fromiter((v is None for v in values), dtype=np.bool_, count=count)
        values = [value or b"" for value in values]
        longest = max(map(len, values), default=0)  # type: ignore[arg-type]
    if count <= _FEW or longest > 12:
        few = [decode_timestamp_us(value or b"") for value in values]
        return np.array(few, dtype=np.int64), missing
    padded = np.array(values, dtype="S16")
    return _times(padded.view(np.uint8).reshape(count, 16), lambda n: values[n] or b""), missing


def decode_stamps(stamps: Masks, sizes: Masks) -> Int64s:
    """Decode event times that are all there: bytes ``[N, 16]``, zeros behind, and their ``[N]``.

    Raises:
        FeatureError: when bytes are no ``google.protobuf.Timestamp``.
    """

    def stored(position: int) -> bytes:
        return stamps[position, : sizes[position]].tobytes()

    if len(stamps) <= _FEW:
        few = [decode_timestamp_us(stored(position)) for position in range(len(stamps))]
        return np.array(few, dtype=np.int64)
    return _times(stamps, stored)


def _times(padded: Masks, stored: Callable[[int], bytes]) -> Int64s:
    # The padding is zeros, and those add nothing.
    parts = (padded & 0x7F) @ _PLACES
    times: Int64s = parts[:, 0] * 1_000_000 + parts[:, 1] // 1000
    regular = (padded.view("<u8")[:, 0] & _REGULAR_BITS) == _REGULAR
    if not regular.all():
        for position in np.flatnonzero(~regular).tolist():
            times[position] = decode_timestamp_us(stored(position))
    return times
