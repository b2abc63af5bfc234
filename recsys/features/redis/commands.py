"""Requests as bytes: what every command of a batch has in common is packed once."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache

from recsys.features.hashes import Wanted

NUM_SLOTS = 16_384
"""Hash slots of a Redis Cluster."""

_BULK = [b"$%d\r\n" % length for length in range(1025)]


def bulk_head(length: int) -> bytes:
    """Give what stands before ``length`` bytes of an argument."""
    return _BULK[length] if length < len(_BULK) else b"$%d\r\n" % length


def pack(*arguments: bytes) -> bytes:
    """Pack one command."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += (bulk_head(len(argument)), argument, b"\r\n")
    return b"".join(parts)


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
    heads = {length: head + bulk_head(length) for length in set(map(len, keys))}
    return [heads[len(key)] + key + tail for key in keys]


class Hmgets:
    """HMGETs of several groups of keys, each group with fields of its own."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self._groups: list[tuple[list[bytes], tuple[bytes, ...]]] = []

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: list[bytes], fields: tuple[bytes, ...]) -> slice:
        """Add a group; gives where its replies will be."""
        first = len(self.keys)
        self.keys += keys
        self._groups.append((keys, fields))
        return slice(first, len(self.keys))

    def each(self) -> list[bytes]:
        """Give the commands one by one."""
        return [command for group in self._groups for command in hmgets(*group)]

    def joined(self) -> bytes:
        """Give the commands as they are sent to one server."""
        return b"".join([_joined(*group) for group in self._groups])


def _joined(keys: list[bytes], fields: tuple[bytes, ...]) -> bytes:
    if not keys:
        return b""
    width = len(keys[0])
    if any(len(key) != width for key in keys):
        return b"".join(hmgets(keys, fields))
    head, tail = _hmget_frame(fields)
    head += bulk_head(width)
    return b"".join((head, (tail + head).join(keys), tail))


def pack_wanted(wanted: Wanted) -> list[bytes]:
    """Pack an HMGET for each ``(key, fields)``."""
    packed = []
    for key, fields in wanted:
        head, tail = _hmget_frame(fields if type(fields) is tuple else tuple(fields))
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
