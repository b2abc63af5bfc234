"""Fields of a hash as they travel: their widths, and their bytes in a row.

The features of a view have the same names and widths for every entity, so they are laid out for all
entities at once, as rows of one matrix, and each entity's row is sent as it is. Cutting it into
names and values, to put them together again when they are sent, is half of what a write costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from recsys.features.batch import Float32s, Int64s
from recsys.features.time_layout import encode_timestamps
from recsys.features.view import View

_EMPTY = b"\0"
_MAX_PARTS = 64
"""Merged fields of more parts are laid out anew, without those that were overwritten."""
_FLOAT32_TAG, _FLOAT32_BYTES = 0x35, 5


Packed = tuple[bytes, bytes]
"""Some fields of one entity: the widths of name, value, name, value … as ``c4c5c4c5``, which Lua's
``struct.unpack`` in Redis cuts by in one call; and the bytes of all. ``c0`` means something else
there, so what is empty is an ``s``: a string up to the zero byte that stands for it."""
_WIDTH = re.compile(rb"c(\d+)|s")
_FIELD = re.compile(rb"(?:c\d+|s)(?:c\d+|s)")


class PackedFields(Mapping[bytes, bytes]):
    """Fields of one hash; of two of a name the later counts, as with Redis."""

    __slots__ = ("_dict", "parts")

    def __init__(self, parts: list[Packed]) -> None:
        self.parts = parts
        self._dict: dict[bytes, bytes] | None = None

    def as_dict(self) -> dict[bytes, bytes]:
        """Give name to value."""
        if self._dict is not None:
            return self._dict
        cut = []
        for widths, data in self.parts:
            begin = 0
            for width in map(int, (found or 0 for found in _WIDTH.findall(widths))):
                cut.append(data[begin : begin + width])
                begin += width or len(_EMPTY)
        self._dict = dict(zip(cut[::2], cut[1::2], strict=True))
        return self._dict

    def __getitem__(self, name: bytes) -> bytes:
        return self.as_dict()[name]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.as_dict())

    def __len__(self) -> int:
        return len(self.as_dict())

    def __repr__(self) -> str:
        return repr(self.as_dict())


def merged(first: Mapping[bytes, bytes], then: Mapping[bytes, bytes]) -> PackedFields:
    """Give the fields of both, and of two of a name the second's."""
    parts: list[Packed] = []
    for fields in (first, then):
        parts += fields.parts if isinstance(fields, PackedFields) else [pack(fields)]
    together = PackedFields(parts)
    return together if len(parts) <= _MAX_PARTS else PackedFields([pack(together)])


def pack(fields: Mapping[bytes, bytes]) -> Packed:
    """Lay out any fields."""
    parts = list(chain.from_iterable(fields.items()))
    return b"".join([_width(part) for part in parts]), b"".join([p or _EMPTY for p in parts])


def pack_one(name: bytes, value: bytes) -> Packed:
    """Lay out one field."""
    return _width(name) + _width(value), (name or _EMPTY) + (value or _EMPTY)


def pack_same(name: bytes, values: Sequence[bytes]) -> list[Packed]:
    """Lay out one field of many hashes."""
    return list(zip(*columns_of_same(name, values), strict=True))


def columns_of_same(name: bytes, values: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Give the widths and the bytes of one field of many hashes."""
    own, named = _width(name), name or _EMPTY
    lengths = list(map(len, values))
    widths = {length: own + _width_of(length) for length in set(lengths)}
    if 0 in widths:
        values = [value or _EMPTY for value in values]
    return [widths[length] for length in lengths], [named + value for value in values]


def cut_widths(widths: bytes, most_bytes: int) -> list[bytes]:
    """Cut the widths of fields into groups of whole fields, no longer than that each."""
    if len(widths) <= most_bytes:
        return [widths] if widths else []
    groups: list[bytes] = []
    begin = end = 0
    for field in _FIELD.finditer(widths):
        if field.end() - begin > most_bytes:
            groups.append(widths[begin:end])
            begin = end
        end = field.end()
    return [*groups, widths[begin:]]


def each_packed(fields: Mapping[bytes, bytes]) -> list[Packed]:
    """Lay out any number of fields, each by itself."""
    return [pack_one(name, value) for name, value in fields.items()]


def _width(part: bytes) -> bytes:
    return _width_of(len(part))


def _width_of(length: int) -> bytes:
    return b"c%d" % length if length else b"s"


def pack_scalars(view: View, values: Float32s, newest_ms: Int64s) -> list[Packed]:
    """Lay out the scalar aggregates ``[N, F]`` and the event times of ``N`` entities."""
    rows, columns = values.shape
    names = [view.feature(a.name).field_bytes for a in view.scalar_aggregates]
    width = len(names[0]) + _FLOAT32_BYTES if names else 0
    cells = np.empty((rows, columns, width), dtype=np.uint8)
    if columns:
        cells[:, :, : width - _FLOAT32_BYTES] = np.frombuffer(b"".join(names), np.uint8).reshape(
            columns, -1
        )
        cells[:, :, -_FLOAT32_BYTES] = _FLOAT32_TAG
        floats = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
        cells[:, :, -_FLOAT32_BYTES + 1 :] = floats.reshape(rows, columns, 4)
    row_bytes, flat = columns * width, cells.tobytes()
    stamp = view.timestamp_field
    of_features = b"".join([b"c%dc%d" % (len(name), _FLOAT32_BYTES) for name in names])
    widths: dict[int, bytes] = {}
    packed: list[Packed] = []
    for n, time in enumerate(encode_timestamps(newest_ms)):
        own = widths.get(len(time))
        if own is None:
            own = widths[len(time)] = of_features + _width(stamp) + _width(time)
        packed.append((own, flat[n * row_bytes : (n + 1) * row_bytes] + stamp + (time or _EMPTY)))
    return packed
