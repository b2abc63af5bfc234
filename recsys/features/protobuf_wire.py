"""Protobuf's wire format, as far as Feast's values need it.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Encode a whole number as protobuf does, a negative one as its two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int | bytes) -> int:
    """Give a whole number of two's complement. ValueError: it is bytes."""
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Give the whole number at a place, and the place after it. IndexError: cut off."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields_of(data: bytes) -> list[tuple[int, int | bytes]]:
    """Split a message into its fields: number, and whole number or bytes.

    Raises:
        ValueError: when it is cut off, or has a wire type that is out of use.
        IndexError: when it is cut off within a number.
    """
    fields: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = read_varint(data, at)
            fields.append((number, value))
            continue
        if wire == 2:
            length, at = read_varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("cut off")
        fields.append((number, data[at : at + length]))
        at += length
    return fields
