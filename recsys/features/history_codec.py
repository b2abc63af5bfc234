"""How the interactions of a history lie in Redis: a body that is seldom written, and a tail.

``u32 bytes of the body | i64 base | body | tail``, little-endian; nothing at all for no
interactions. The *tail* is one record for each interaction, so that the next one is appended
without looking at the others: the step in time as a varint, the length of the item's id as a
varint, the id. The first step begins at the base, which is the time of the body's last
interaction, or of the tail's first when there is no body.

The *body*: ``history_body.py``.

Axes: ``N`` interactions of ``Q`` users, sorted by owner and then as a history is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.features.batch import Bools, Int64s
from recsys.features.history_body import damaged, decode_bodies, encode_bodies, steps_of
from recsys.features.varints import MORE, read_varint, varint, varints

HEAD = struct.Struct("<Iq")


class Interactions(NamedTuple):
    """Interactions of some users."""

    owner: Int64s
    item: Int64s
    """Place of the item's id in ``ids``."""
    time_ms: Int64s
    ids: list[bytes]
    """Distinct."""


def encode(rows: Interactions, in_tail: Bools, num_owners: int) -> list[bytes]:
    """Encode, one blob for each user; ``in_tail`` (``[N]``) are the last ones of each, or none."""
    ends = np.searchsorted(rows.owner, np.arange(num_owners + 1)).tolist()
    body = ~in_tail
    bodies = encode_bodies(
        rows.owner[body], rows.item[body], rows.time_ms[body], rows.ids, num_owners
    )
    steps = steps_of(rows.owner, rows.time_ms)
    records = tail_records(steps[in_tail], rows.item[in_tail], [tail_id(i) for i in rows.ids])
    num_before = np.concatenate([[0], np.cumsum(in_tail)])
    blobs: list[bytes] = []
    for who, stored in enumerate(bodies):
        begin, end = ends[who], ends[who + 1]
        if begin == end:
            blobs.append(b"")
            continue
        first, last = int(num_before[begin]), int(num_before[end])
        num_in_body = end - begin - (last - first)
        base = int(rows.time_ms[begin + max(num_in_body - 1, 0)])
        blobs.append(HEAD.pack(len(stored), base) + stored + b"".join(records[first:last]))
    return blobs


def begin(base_ms: int) -> bytes:
    """Give the blob of a user before the first interaction, which is at ``base_ms``."""
    return HEAD.pack(0, base_ms)


def tail_id(item_id: bytes) -> bytes:
    """Give an item's id as it ends a record of a tail."""
    return varint(len(item_id)) + item_id


def tail_records(steps: Int64s, item: Int64s, ids: Sequence[bytes]) -> list[bytes]:
    """Give records of a tail, ``[N]``; ``ids`` are given by ``tail_id``."""
    flat, starts = varints(steps)
    ends = starts.tolist()
    return [
        flat[ends[n] : ends[n + 1]] + ids[place] for n, place in enumerate(item.tolist())
    ]  # fmt: skip


def decode(blobs: Sequence[bytes | None]) -> Interactions:
    """Give the interactions of ``Q`` users; ``None`` has none.

    Raises:
        FeatureError: when a blob is damaged.
    """
    place_of: dict[bytes, int] = {}
    who: list[int] = []
    bodies: list[bytes] = []
    tail_owner: list[int] = []
    tail_ids: list[bytes] = []
    tail_ms: list[int] = []
    for n, blob in enumerate(blobs):
        if not blob:
            continue
        if len(blob) < HEAD.size:
            raise damaged(f"{len(blob)} bytes")
        size, base_ms = HEAD.unpack_from(blob)
        if len(blob) < HEAD.size + size:
            raise damaged(f"{len(blob)} bytes for a body of {size}")
        if size:
            who.append(n)
            bodies.append(blob[HEAD.size : HEAD.size + size])
        num = len(tail_ms)
        read_tail(blob, HEAD.size + size, base_ms, tail_ids, tail_ms)
        tail_owner += [n] * (len(tail_ms) - num)
    tail_item = [place_of.setdefault(item_id, len(place_of)) for item_id in tail_ids]
    owner, item, time_ms = decode_bodies(bodies, place_of)
    owner = np.array(who, dtype=np.int64)[owner] if len(owner) else owner
    if tail_ms:
        owner = np.concatenate([owner, np.array(tail_owner, dtype=np.int64)])
        order = np.argsort(owner, kind="stable")
        item = np.concatenate([item, np.array(tail_item, dtype=np.int64)])[order]
        time_ms = np.concatenate([time_ms, np.array(tail_ms, dtype=np.int64)])[order]
        owner = owner[order]
    return Interactions(owner, item, time_ms, list(place_of))


def read_tail(blob: bytes, at: int, time_ms: int, items: list[bytes], times: list[int]) -> None:
    """Add the interactions of the tail that begins at ``at``; its first step is from ``time_ms``.

    Raises:
        FeatureError: when it is damaged.
    """
    end = len(blob)
    try:
        while at < end:
            step, at = blob[at], at + 1
            if step >= MORE:  # as a rule: some seconds in milliseconds, so no call for each
                step, shift = step & 0x7F, 7
                while (byte := blob[at]) >= MORE:
                    step |= (byte & 0x7F) << shift
                    shift, at = shift + 7, at + 1
                step, at = step | byte << shift, at + 1
            time_ms += step
            length, at = blob[at], at + 1
            if length >= MORE:
                length, at = read_varint(blob, at, length)
            last = at + length
            items.append(blob[at:last])
            at = last
            times.append(time_ms)
    except IndexError:
        raise damaged("a record that is cut off") from None
    if at > end or time_ms >= 1 << 63:
        raise damaged("a record that is cut off")
