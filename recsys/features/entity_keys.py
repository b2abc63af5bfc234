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
from recsys.features.layout import key_prefix
from recsys.features.plan import KeyType, View

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
        columns = []
        for name, kind in zip(self.join_keys, self.key_types, strict=True):
            if name not in entities:
                raise InputError(
                    f'wanted the join keys {", ".join(self.join_keys)}; found no "{name}" among '
                    f"{sorted(entities)}",
                    field=name,
                )
            columns.append(
                _fixed(name, kind, entities[name])
                if kind in _WIDTHS
                else _texts(name, kind, entities[name])
            )
        lengths = {len(column) for column in columns}
        if len(lengths) > 1:
            raise InputError(f"wanted join keys of one length, found lengths {sorted(lengths)}")
        (rows,) = lengths or {0}
        if all(isinstance(column, np.ndarray) for column in columns):
            return self._rows(columns, rows)  # type: ignore[arg-type]
        lists = [
            list(map(bytes, column)) if isinstance(column, np.ndarray) else column
            for column in columns
        ]
        prefix, project = self._prefix, self._project
        if len(lists) == 1:
            return [prefix + value + project for value in lists[0]]
        return [b"".join((prefix, *values, project)) for values in zip(*lists, strict=True)]

    def _few(self, entities: Mapping[str, Any]) -> list[bytes] | None:
        """Give the keys of a handful of whole numbers without arrays; ``None`` for all else."""
        kind = self.key_types[0]
        values = entities.get(self.join_keys[0])
        if kind not in _WIDTHS or type(values) is not list or len(values) > _FEW:
            return None
        if any(type(value) is not int for value in values):
            return None
        head, pack = self._few_head, _PACKERS[kind]
        try:
            return [head + pack(value) + self._project for value in values]
        except struct.error:
            return None

    def _rows(self, columns: list[Bytes], rows: int) -> Bytes:
        prefix = np.frombuffer(self._prefix, dtype=np.uint8)
        project = np.frombuffer(self._project, dtype=np.uint8)
        widths = [len(prefix), *(column.shape[1] for column in columns), len(project)]
        out = np.empty((rows, sum(widths)), dtype=np.uint8)
        at = 0
        for part, width in zip([prefix, *columns, project], widths, strict=True):
            out[:, at : at + width] = part
            at += width
        return out


def _fixed(name: str, kind: KeyType, values: Any) -> Bytes:
    given = np.asarray(values)
    if kind == "timestamp" and given.dtype.kind == "M":
        given = given.astype("datetime64[s]").astype(np.int64)
    if given.dtype.kind not in "iu" and len(given):
        found = next((v for v in given.ravel().tolist() if type(v) is not int), given.dtype)
        raise InputError(
            f'join key "{name}": wanted {kind} values, found {found!r} ({type(found).__name__})',
            field=name,
        )
    dtype = np.dtype(_WIDTHS[kind])
    bounds = np.iinfo(dtype)
    if len(given) and (int(given.min()) < bounds.min or int(given.max()) > bounds.max):
        raise InputError(
            f'join key "{name}": wanted {kind} values, found {int(given.max())}', field=name
        )
    out = np.empty((len(given), 8 + dtype.itemsize), dtype=np.uint8)
    head = struct.pack("<II", _CODES[kind], dtype.itemsize)
    out[:, :8] = np.frombuffer(head, dtype=np.uint8)
    out[:, 8:] = given.astype(dtype).view(np.uint8).reshape(len(given), dtype.itemsize)
    return out


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
