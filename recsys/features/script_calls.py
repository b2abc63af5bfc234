"""Writes as the arguments of script calls: few, large, and bounded in what Redis does at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from recsys.features.hashes import Write
from recsys.features.packed_fields import PackedFields, each_packed

CHUNK_HASHES = 256
_CHUNK_BYTES = 512 * 1024
"""Of one script call: bounds how long Redis serves nobody else to a few ms."""
Encoded = tuple[list[bytes], bytes, bytes]
"""Keys; for each its version, how many groups of fields follow and the place of the widths of each,
with those widths; names and values in a row."""
_MAX_WIDTHS_BYTES = 4_000
"""A width takes two bytes at least, so these are 2,000 names and values."""
_encoder = msgspec.msgpack.Encoder()


def calls_of(writes: Sequence[Write]) -> list[Encoded]:
    """Give what script calls are told: one, or more where the values are large.

    Names and values travel as one string each way: packing some twenty arguments for each hash
    would cost several times what is done with them.
    """
    numbers: list[int] = []
    parts: list[bytes] = []
    place_of: dict[bytes, int] = {}
    for _, fields, version, remove in writes:
        if remove:
            numbers += (version, -1)
            continue
        packed = fields.parts if isinstance(fields, PackedFields) else each_packed(fields)
        if len(packed) == 1 and len(packed[0][0]) <= _MAX_WIDTHS_BYTES:  # most are
            own, one = packed[0]
            numbers += (version, 1, place_of.setdefault(own, len(place_of) + 1))
            parts.append(one)
            continue
        widths = _grouped([own for own, _ in packed])
        numbers += (version, len(widths))
        numbers += [place_of.setdefault(own, len(place_of) + 1) for own in widths]
        parts += [own for _, own in packed]
    data = b"".join(parts)
    if len(data) > _CHUNK_BYTES and len(writes) > 1:
        middle = len(writes) // 2
        return [*calls_of(writes[:middle]), *calls_of(writes[middle:])]
    told = _encoder.encode((numbers, [own.decode() for own in place_of]))
    return [([write.key for write in writes], told, data)]


def _grouped(widths: list[bytes]) -> list[bytes]:
    """Join the widths of parts, as far as what they stand for fits on Lua's stack."""
    groups: list[list[bytes]] = []
    size = _MAX_WIDTHS_BYTES
    for own in widths:
        size += len(own)
        if size > _MAX_WIDTHS_BYTES:
            groups.append([])
            size = len(own)
        groups[-1].append(own)
    return [b"".join(group) for group in groups]
