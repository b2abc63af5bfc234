"""Entity keys as dense integers: labels say which keys exist, rows of other keys are dropped.

Keys are compared by value, not by column type: an int32 column matches an int64 one, a dictionary
of strings matches strings, and whole numbers that pandas turned into floats (a column with gaps)
match integers. A null matches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import InputError
from recsys.features.offline_store.label_order import Int64s

_MOST_PLACES = 1 << 22
"""Widest span of integer keys that are looked up by their place: a table of 16 MiB."""

_BLOCK = 1 << 15
"""Values looked up at once: what is made of them on the way stays in a core's own cache."""


class KeyCodes:
    """Codes of the labels' keys, and of rows in the same coding.

    Args:
        columns: The labels' key columns, each (L,).
        kinds: The types of the source's key columns, in the same order.
        names: Of those, for messages.

    Attributes:
        codes: Of the labels (L,), dense from 0; -1 where a part of the key is null.
        distinct: The values of each key column, in the source's kind, to prune by.

    Raises:
        InputError: a label's column cannot be compared with the source's.
    """

    def __init__(
        self,
        columns: Sequence[pa.ChunkedArray],
        kinds: Sequence[pa.DataType],
        names: Sequence[str],
        length: int,
    ) -> None:
        self._kinds = [comparable(kind) for kind in kinds]
        self.distinct: list[pa.Array] = []
        self._columns: list[_Coding] = []
        self._joint: list[_Coding] = []
        parts = []
        for column, kind, name in zip(columns, self._kinds, names, strict=True):
            column = _as_kind(column, kind, name)
            self.distinct.append(pc.unique(column).drop_null())
            self._columns.append(_Coding(self.distinct[-1]))
            parts.append(self._columns[-1].of(column))
        self.codes = self._combined(parts, length, learn=True)

    def of(self, columns: Sequence[pa.ChunkedArray], length: int) -> Int64s:
        """Codes of rows (N,); -1 for a key that no label has."""
        parts = [
            coding.of(column.cast(kind))
            for column, kind, coding in zip(columns, self._kinds, self._columns, strict=True)
        ]
        return self._combined(parts, length, learn=False)

    def _combined(self, parts: list[Int64s], length: int, *, learn: bool) -> Int64s:
        if not parts:  # a view without entities: everybody has the same, empty key
            return np.zeros(length, dtype=np.int64)
        whole = parts[0]
        for number, part in enumerate(parts[1:]):
            # Below L * L < 2^63; made dense again before the next column, so it never overflows.
            size = max(len(self.distinct[number + 1]), 1)
            pair = np.where((whole >= 0) & (part >= 0), whole * size + part, -1)
            if learn:
                self._joint.append(_Coding(pa.array(np.unique(pair[pair >= 0]))))
            whole = self._joint[number].of(pa.chunked_array([pa.array(pair)]))
        return whole


def comparable(kind: pa.DataType) -> pa.DataType:
    """The type in which keys of this type are compared."""
    if pa.types.is_dictionary(kind):
        return comparable(kind.value_type)
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return pa.int64()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_floating(kind):
        return pa.float64()
    return kind


def _as_kind(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    found = comparable(column.type)
    try:
        if pa.types.is_null(found) or found == kind:
            return column.cast(kind)
        if pa.types.is_floating(found) and pa.types.is_integer(kind):
            values = column.cast(pa.float64())
            # 2^53: beyond it a float does not say which integer it was.
            fits = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
            return pc.if_else(fits, values, None).cast(kind)
        if pa.types.is_integer(found) and pa.types.is_floating(kind):
            return column.cast(kind)
        if pa.types.is_timestamp(found) and pa.types.is_timestamp(kind):
            return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(f'join key "{name}": {error}', field=name) from error
    raise InputError(
        f'join key "{name}": wanted {kind} as in the source, found {column.type} in the entity '
        f"frame; convert the column (for instance entity_df.astype)",
        field=name,
    )


class _Coding:
    """Distinct values of one column as integers from 0, in their order."""

    def __init__(self, distinct: pa.Array) -> None:
        self._distinct = distinct
        self._table: npt.NDArray[np.int32] | None = None
        if pa.types.is_integer(distinct.type) and len(distinct):
            values = distinct.to_numpy(zero_copy_only=False)
            self._lowest = int(values.min())
            span = int(values.max()) - self._lowest
            if span < _MOST_PLACES:
                self._table = np.full(span + 2, -1, dtype=np.int32)
                self._table[values - self._lowest] = np.arange(len(values))

    def of(self, column: pa.ChunkedArray) -> Int64s:
        """Codes of a column (N,); -1 for a null and for what is not among the values."""
        if self._table is not None and not column.null_count:
            codes = np.empty(len(column), dtype=np.int64)
            start = 0
            for chunk in column.chunks:
                self._by_place(self._table, chunk.to_numpy(), codes[start : start + len(chunk)])
                start += len(chunk)
            return codes
        at = pc.index_in(column, value_set=self._distinct)
        if at.null_count:
            at = pc.fill_null(at, -1)
        return np.asarray(at.to_numpy(), dtype=np.int64)

    def _by_place(
        self, table: npt.NDArray[np.int32], values: npt.NDArray[Any], codes: Int64s
    ) -> None:
        """Look up integers that lie close together in a table of all of them: no hashing."""
        for start in range(0, len(values), _BLOCK):
            # Compared unsigned, what is too low is too high as well; the last place is everybody
            # else's.
            place = (values[start : start + _BLOCK] - self._lowest).view(np.uint64)
            np.minimum(place, np.uint64(len(table) - 1), out=place)
            codes[start : start + _BLOCK] = table[place]
