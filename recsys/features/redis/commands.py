"""Requests as bytes: what every command of a batch has in common is packed once."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.hashes import Wanted
from recsys.features.redis.regular_rows import RowShape

NUM_SLOTS = 16_384
"""Hash slots of a Redis Cluster."""

Bytes = npt.NDArray[np.uint8]
_MIN_REGULAR = 16
"""Replies from which on they are worth being taken as arrays."""
_BULK = [b"$%d\r\n" % length for length in range(1025)]


def bulk_head(length: int) -> bytes:
    """Give what stands before ``length`` bytes of an argument."""
    return _BULK[length] if length < len(_BULK) else b"$%d\r\n" % length


def bulk_heads(values: Sequence[bytes]) -> list[bytes]:
    """Give what stands before each of some arguments."""
    try:
        return list(map(_BULK.__getitem__, map(len, values)))
    except IndexError:
        heads = {length: bulk_head(length) for length in set(map(len, values))}
        return [heads[len(value)] for value in values]


def pack(*arguments: bytes) -> bytes:
    """Pack one command."""
    parts = [b"\r\n"] * (3 * len(arguments))
    parts[0::3] = bulk_heads(arguments)
    parts[1::3] = arguments
    return b"*%d\r\n" % len(arguments) + b"".join(parts)


@lru_cache(maxsize=1024)
def _hmget_frame(fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
    tail = [b"\r\n"]
    for field in fields:
        tail += (bulk_head(len(field)), field, b"\r\n")
    return head, b"".join(tail)


def hmgets(keys: Sequence[bytes], fields: tuple[bytes, ...]) -> list[bytes]:
    """Pack an HMGET of the same fields for each key."""
    head, tail = _hmget_frame(fields)
    if len(keys) == 1:
        return [head + bulk_head(len(keys[0])) + keys[0] + tail]
    heads = {length: head + bulk_head(length) for length in set(map(len, keys))}
    return [heads[len(key)] + key + tail for key in keys]


class Hmgets:
    """HMGETs of several groups of keys, each group with fields of its own."""

    def __init__(self) -> None:
        self._count = 0
        self._groups: list[_Group] = []

    def __len__(self) -> int:
        return self._count

    def add(
        self, keys: list[bytes] | Bytes, fields: tuple[bytes, ...], shape: RowShape | None = None
    ) -> slice:
        """Add a group, and how its rows look; gives where its replies will be.

        Keys of one length may be the rows of an array.
        """
        first = self._count
        self._count += len(keys)
        self._groups.append(_Group(keys, fields, shape))
        return slice(first, self._count)

    @property
    def shapes(self) -> tuple[tuple[int, RowShape], ...]:
        """Of each group how many rows of what shape are wanted; none where that gains nothing."""
        if self._count < _MIN_REGULAR:
            return ()
        found = [(len(keys), shape) for keys, _, shape in self._groups if shape is not None]
        return tuple(found) if len(found) == len(self._groups) else ()

    @property
    def keys(self) -> list[bytes]:
        """The key of each command."""
        return [key for group in self._groups for key in _listed(group.keys)]

    def each(self) -> list[bytes]:
        """Give the commands one by one."""
        return [
            command
            for group in self._groups
            for command in hmgets(_listed(group.keys), group.fields)
        ]

    def joined(self) -> bytes:
        """Give the commands as they are sent to one server."""
        if len(self._groups) == 1:
            return bytes(_joined(self._groups[0].keys, self._groups[0].fields))
        return b"".join([_joined(group.keys, group.fields) for group in self._groups])


class _Group(NamedTuple):
    keys: list[bytes] | Bytes
    fields: tuple[bytes, ...]
    shape: RowShape | None


def _listed(keys: list[bytes] | Bytes) -> list[bytes]:
    if isinstance(keys, list):
        return keys
    rows: list[bytes] = keys.view(f"V{keys.shape[1]}").ravel().tolist() if len(keys) else []
    return rows


def _joined(keys: list[bytes] | Bytes, fields: tuple[bytes, ...]) -> bytes | memoryview:
    if isinstance(keys, list):
        return b"".join(hmgets(keys, fields))
    count, width = keys.shape
    row, begin = _hmget_row(fields, width)
    out = np.empty((count, len(row)), dtype=np.uint8)
    out[:] = row
    out[:, begin : begin + width] = keys
    return out.data.cast("B") if count else b""


@lru_cache(maxsize=1024)
def _hmget_row(fields: tuple[bytes, ...], width: int) -> tuple[Bytes, int]:
    """Give a command with a key of ``width`` zeros, and where that begins."""
    head, tail = _hmget_frame(fields)
    head += bulk_head(width)
    return np.frombuffer(head + bytes(width) + tail, dtype=np.uint8), len(head)


def pack_wanted(wanted: Wanted) -> list[bytes]:
    """Pack an HMGET for each ``(key, fields)``."""
    packed = []
    known: Sequence[bytes] | None = None
    head = tail = b""
    for key, fields in wanted:
        if fields is not known:  # as a rule many in a row want the same
            known = fields
            head, tail = _hmget_frame(tuple(fields))
        packed.append(head + bulk_head(len(key)) + key + tail)
    return packed


def slot_of(key: bytes) -> int:
    """Give the hash slot of a key. Source: Redis Cluster specification, "Hash tags"."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) % NUM_SLOTS
