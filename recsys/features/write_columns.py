"""Writes to many hashes as columns: one list of each part, instead of an object for each hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import overload

from recsys.features.hashes import Write
from recsys.features.packed_fields import PackedFields


class WriteColumns(Sequence[Write]):
    """Writes that set fields, in order; each looks like a ``Write`` when it is asked for.

    Lists of one length: names of the hashes, versions their states were read at, and the widths and
    bytes of the fields of each (``packed_fields.Packed``).
    """

    __slots__ = ("data", "keys", "versions", "widths")

    def __init__(
        self,
        keys: list[bytes] | None = None,
        versions: list[int] | None = None,
        widths: list[bytes] | None = None,
        data: list[bytes] | None = None,
    ) -> None:
        """Take the lists, which are its own from now on; none of them: no writes."""
        self.keys = [] if keys is None else keys
        self.versions = [] if versions is None else versions
        self.widths = [] if widths is None else widths
        self.data = [] if data is None else data

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Write: ...

    @overload
    def __getitem__(self, at: slice) -> WriteColumns: ...

    def __getitem__(self, at: int | slice) -> Write | WriteColumns:
        if isinstance(at, slice):
            return WriteColumns(self.keys[at], self.versions[at], self.widths[at], self.data[at])
        return _write(self.keys[at], self.versions[at], self.widths[at], self.data[at])

    def __iter__(self) -> Iterator[Write]:
        return map(_write, self.keys, self.versions, self.widths, self.data)

    def __repr__(self) -> str:
        return repr(list(self))

    def extend(self, others: WriteColumns) -> None:
        """Put others behind these."""
        self.keys += others.keys
        self.versions += others.versions
        self.widths += others.widths
        self.data += others.data

    def without(self, keys: Set[bytes]) -> WriteColumns:
        """Leave out those to some hashes."""
        return self.at([n for n, key in enumerate(self.keys) if key not in keys])

    def at(self, places: Sequence[int]) -> WriteColumns:
        """Give those at these places."""
        return WriteColumns(
            [self.keys[n] for n in places],
            [self.versions[n] for n in places],
            [self.widths[n] for n in places],
            [self.data[n] for n in places],
        )


def _write(key: bytes, version: int, widths: bytes, data: bytes) -> Write:
    return Write(key, PackedFields([(widths, data)]), version)
