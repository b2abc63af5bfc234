"""Redis keys of many entities at once, of join keys of any type Feast allows.

An entity key is the sorted names of its join keys, then for each value its type, its length and
its bytes, then the project. Where all join keys have a fixed width, every key of a batch is a row
of one array and only the values differ.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.key_layout import key_prefix
from recsys.features.view import KeyType, View

_CODES: dict[KeyType, int] = {"bytes": 1, "string": 2, "int32": 3, "int64": 4, "timestamp": 8}
"""``feast.types.ValueType`` of a join key."""
_WIDTHS: dict[KeyType, str] = {"int32": "<i4", "int64": "<i8", "timestamp": "<i8"}

_PACKERS = {"int32": struct.Struct("<i").pack, "int64": struct.Struct("<q").pack,
            "timestamp": struct.Struct("<q").pack}  # fmt: skip
_FEW = 16
"""Values up to which a loop is faster than arrays."""

Bytes = npt.NDArray[np.uint8]


class EntityKeyColumns:
    """Builds the keys of entities of one set of join keys."""

    def __init__(
        self, join_keys: Sequence[str], key_types: Sequence[KeyType], project: str
    ) -> None:
        """``join_keys`` are sorted; ``key_types`` align with them, none: all strings."""
        self.join_keys = tuple(join_keys)
        strings: list[KeyType] = ["string"] * len(self.join_keys)
        self.key_types: tuple[KeyType, ...] = tuple(key_types or strings)
        unknown = sorted(set(self.key_types) - set(get_args(KeyType)))
        if unknown or len(self.key_types) != len(self.join_keys):
            raise InputError(f"wanted a key type for each of {join_keys}, found {key_types}")
        self._prefix = key_prefix(self.join_keys)
        self._project = project.encode()
        self._template, self._holes = self._row()
        kind = self.key_types[0] if self.key_types else "string"
        if kind in _WIDTHS:
            self._few_head = self._prefix + struct.pack(
                "<II", _CODES[kind], np.dtype(_WIDTHS[kind]).itemsize
            )

    @classmethod
    def of_view(cls, view: View, project: str) -> EntityKeyColumns:
        """Give the builder of a view's keys."""
        return cls(view.join_keys, view.key_types, project)

    def build(self, entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> list[bytes]:
        """Give the key of each row of columns named by the join keys.

        Raises:
            InputError: a column is absent, of another length or of another type.
        """
        rows = self.rows(entities)
        if isinstance(rows, list):
            return rows
        keys: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist() if len(rows) else []
        return keys

    def rows(self, entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> list[bytes] | Bytes:
        """Give the keys as ``build``; as ``[N, width]`` where all have one, and are many.

        Raises:
            InputError: as ``build``.
        """
        if len(self.join_keys) == 1 and (few := self._few(entities)) is not None:
            return few
        for name in self.join_keys:
            if name not in entities:
                raise InputError(
                    f'wanted the join keys {", ".join(self.join_keys)}; found no "{name}" among '
                    f"{sorted(entities)}",
                    field=name,
                )
        if self._holes is not None:
            return self._rows([
                _whole(name, kind, entities[name])
                for name, kind in zip(self.join_keys, self.key_types, strict=True)
            ])  # fmt: skip
        lists = [
            _texts(name, kind, entities[name])
            if kind not in _WIDTHS
            else [
                struct.pack("<II", _CODES[kind], len(value)) + value
                for value in map(bytes, _bytes_of(_whole(name, kind, entities[name])))
            ]
            for name, kind in zip(self.join_keys, self.key_types, strict=True)
        ]
        _check_lengths(lists)
        prefix, project = self._prefix, self._project
        if len(lists) == 1:
            return [prefix + value + project for value in lists[0]]
        return [b"".join((prefix, *values, project)) for values in zip(*lists, strict=True)]

    def _row(self) -> tuple[Bytes, list[tuple[int, int]] | None]:
        """Give a key with nothing in it and where its values go; ``None`` when no two are alike."""
        if not all(kind in _WIDTHS for kind in self.key_types):
            return np.empty(0, dtype=np.uint8), None
        row, holes = bytearray(self._prefix), []
        for kind in self.key_types:
            size = np.dtype(_WIDTHS[kind]).itemsize
            row += struct.pack("<II", _CODES[kind], size)
            holes.append((len(row), len(row) + size))
            row += bytes(size)
        return np.frombuffer(bytes(row) + self._project, dtype=np.uint8), holes

    def _few(self, entities: Mapping[str, Any]) -> list[bytes] | None:
        """Give the keys of a handful of whole numbers without arrays; ``None`` for all else."""
        kind = self.key_types[0]
        values = entities.get(self.join_keys[0])
        if kind not in _WIDTHS or type(values) is not list or len(values) > _FEW:
            return None
        for value in values:
            if type(value) is not int:
                return None
        head, pack = self._few_head, _PACKERS[kind]
        try:
            return [head + pack(value) + self._project for value in values]
        except struct.error:
            return None

    def _rows(self, columns: list[npt.NDArray[Any]]) -> Bytes:
        _check_lengths(columns)
        out = np.empty((len(columns[0]) if columns else 0, len(self._template)), dtype=np.uint8)
        out[:] = self._template
        for (begin, end), column in zip(self._holes or (), columns, strict=True):
            out[:, begin:end] = _bytes_of(column)
        return out


def _check_lengths(columns: Sequence[Sequence[bytes] | npt.NDArray[Any]]) -> None:
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise InputError(f"wanted join keys of one length, found lengths {sorted(lengths)}")


def _bytes_of(column: npt.NDArray[Any]) -> Bytes:
    return column.view(np.uint8).reshape(len(column), column.itemsize)


def _whole(name: str, kind: KeyType, values: Any) -> npt.NDArray[Any]:
    """Give whole numbers in the width of their key type."""
    given = np.asarray(values)
    dtype = np.dtype(_WIDTHS[kind])
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    if kind == "timestamp" and given.dtype.kind == "M":
        given = given.astype("datetime64[s]").astype(np.int64)
    if given.dtype.kind not in "iu" and len(given):
        found = next((v for v in given.ravel().tolist() if type(v) is not int), given.dtype)
        raise InputError(
            f'join key "{name}": wanted {kind} values, found {found!r} ({type(found).__name__})',
            field=name,
        )
    bounds = np.iinfo(dtype)
    if len(given) and (int(given.min()) < bounds.min or int(given.max()) > bounds.max):
        raise InputError(
            f'join key "{name}": wanted {kind} values, found {int(given.max())}', field=name
        )
    return given.astype(dtype)


def _texts(name: str, kind: KeyType, values: Any) -> list[bytes]:
    pack, code = struct.Struct("<II").pack, _CODES[kind]
    try:
        encoded = [value.encode() for value in values] if kind == "string" else list(values)
        return [pack(code, len(value)) + value for value in encoded]
    except (AttributeError, TypeError) as error:
        wanted = str if kind == "string" else bytes
        found = next((v for v in values if not isinstance(v, wanted)), values)
        raise InputError(
            f'join key "{name}": wanted {kind} values, found {found!r} ({type(found).__name__})',
            field=name,
        ) from error
