"""Records that are kept and travel together, as bytes that can be checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

LogRecord = tuple[str, bytes, bytes]
"""Topic, key, value."""

GROUP_RECORDS, GROUP_BYTES = 1_000, 1_000_000
"""Longest group: what is sent at once, and what is sent again after a kill. A sender that is told
nothing repeats a group at most a few times, which stays well inside the 10,000 records over which
an event sent twice counts once (``features/duplicates.py``)."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[LogRecord]).decode


class PackedGroup(NamedTuple):
    """One group as it is kept."""

    crc: int
    num_records: int
    num_bytes: int
    """Of keys and values."""
    data: bytes
    """Msgpack of ``[[topic, key, value], …]``."""


def size_of(records: Sequence[LogRecord]) -> int:
    """Give the bytes of keys and values."""
    return sum(len(key) + len(value) for _, key, value in records)


def grouped(records: Sequence[LogRecord]) -> Iterator[list[LogRecord]]:
    """Give the records in groups that may travel together, in order."""
    group: list[LogRecord] = []
    size = 0
    for record in records:
        own = len(record[1]) + len(record[2])
        if group and (len(group) == GROUP_RECORDS or size + own > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(record)
        size += own
    if group:
        yield group


def packed(records: Sequence[LogRecord]) -> PackedGroup:
    """Give one group as bytes with their CRC-32."""
    data = _pack(records)
    return PackedGroup(zlib.crc32(data), len(records), size_of(records), data)


def unpacked(data: bytes, crc: int | None = None) -> list[LogRecord] | None:
    """Give the records of a group; ``None`` when it is damaged. Without ``crc`` only the form is
    checked.
    """
    if crc is not None and zlib.crc32(data) != crc:
        return None
    try:
        return _unpack(data)
    except (msgspec.MsgspecError, ValueError):
        return None
