"""Writes as the arguments of script calls: few, large, and bounded in what Redis does at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from recsys.features.hashes import Write
from recsys.features.packed_fields import PackedFields, cut_widths, pack
from recsys.features.write_columns import WriteColumns

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
    if (
        isinstance(writes, WriteColumns)
        and max(map(len, writes.widths), default=0) <= _MAX_WIDTHS_BYTES
    ):
        keys, parts = writes.keys, writes.data
        numbers, place_of = _numbers_of_columns(writes)
    else:
        keys = [write.key for write in writes]
        numbers, place_of, parts = _numbers_of_each(writes)
    data = b"".join(parts)
    if len(data) > _CHUNK_BYTES and len(writes) > 1:
        middle = len(writes) // 2
        return [*calls_of(writes[:middle]), *calls_of(writes[middle:])]
    told = _encoder.encode((numbers, [own.decode() for own in place_of]))
    return [(keys, told, data)]


def _numbers_of_columns(writes: WriteColumns) -> tuple[list[int], dict[bytes, int]]:
    """Give the numbers of writes that set one group of fields each, and the places of widths."""
    place_of = {own: place for place, own in enumerate(dict.fromkeys(writes.widths), start=1)}
    numbers = [1] * (3 * len(writes))
    numbers[0::3] = writes.versions
    numbers[2::3] = [place_of[own] for own in writes.widths]
    return numbers, place_of


def _numbers_of_each(
    writes: Sequence[Write],
) -> tuple[list[int], dict[bytes, int], list[bytes]]:
    """Give the numbers of any writes, the places of widths, and the bytes of the fields."""
    numbers: list[int] = []
    parts: list[bytes] = []
    place_of: dict[bytes, int] = {}
    for _, fields, version, remove in writes:
        if remove:
            numbers += (version, -1)
            continue
        packed = fields.parts if isinstance(fields, PackedFields) else [pack(fields)]
        groups = cut_widths(b"".join([own for own, _ in packed]), _MAX_WIDTHS_BYTES)
        numbers += (version, len(groups))
        numbers += [place_of.setdefault(own, len(place_of) + 1) for own in groups]
        parts += [own for _, own in packed]
    return numbers, place_of, parts
