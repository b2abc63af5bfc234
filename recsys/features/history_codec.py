"""How the interactions of a history lie in Redis: a body that is seldom written, and a tail.

``u32 bytes of the body | i64 base | body | tail``, little-endian; nothing at all for no
interactions. The *tail* is one record for each interaction, so that the next one is appended
without looking at the others: the step in time as a varint, the length of the item's id as a
varint, the id. The first step begins at the base, which is the time of the body's last
interaction, or of the tail's first when there is no body.

The *body* holds each item once: ``u16 N | u16 D | u32 bytes of the varints | i64 first time |
N bits: the first with its item | N bits: later than the one before | N - D x place of the item of
the others, u8 when D <= 256, else u16 | varints: the steps in time that are not 0, D lengths |
D ids``, items in the order of their first interaction. Shopping has many steps of 0 (the lines of
an invoice) and many items that come once.

Axes: ``N`` interactions of ``Q`` users, sorted by owner and then as a history is; ``D`` items.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Bools, Int64s

HEAD = struct.Struct("<Iq")
BODY = struct.Struct("<HHIq")
SMALL = 256
"""Items whose places fit into a byte."""
_MAX_VARINT = 9
"""Bytes of the longest step, 63 bits."""
_MORE = 0x80


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
    bodies = _encode_bodies(
        Interactions(rows.owner[body], rows.item[body], rows.time_ms[body], rows.ids), num_owners
    )
    steps = _steps(rows.owner, rows.time_ms)
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
    return _varint(len(item_id)) + item_id


def tail_records(steps: Int64s, item: Int64s, ids: Sequence[bytes]) -> list[bytes]:
    """Give records of a tail, ``[N]``; ``ids`` are given by ``tail_id``."""
    flat, starts = _varints(steps)
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
    owner, item, time_ms = _decode_bodies(bodies, place_of)
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
            if step >= _MORE:
                step, at = _read_varint(blob, at, step)
            time_ms += step
            length, at = blob[at], at + 1
            if length >= _MORE:
                length, at = _read_varint(blob, at, length)
            last = at + length
            items.append(blob[at:last])
            at = last
            times.append(time_ms)
    except IndexError:
        raise damaged("a record that is cut off") from None
    if at > end or time_ms >= 1 << 63:
        raise damaged("a record that is cut off")


def _read_varint(blob: bytes, at: int, low: int) -> tuple[int, int]:
    """Give a number whose first byte is ``low``, and the place after it."""
    value, shift = low & 0x7F, 7
    while (byte := blob[at]) >= _MORE:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def _encode_bodies(rows: Interactions, num_owners: int) -> list[bytes]:
    owner, item, time_ms, ids = rows
    bodies = [b""] * num_owners
    if not len(owner):
        return bodies
    starts = np.searchsorted(owner, np.arange(num_owners + 1))
    place, is_first, items, item_starts = _places(owner, item, num_owners)
    step = _steps(owner, time_ms)
    is_later = step > 0
    steps, step_ends = _varints(step[is_later])
    sizes = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    lengths, length_ends = _varints(sizes[items])
    again = place[~is_first]
    small, large = again.astype("u1").tobytes(), again.astype("<u2").tobytes()
    num_again = np.concatenate([[0], np.cumsum(~is_first)])[starts].tolist()
    step_at = step_ends[np.concatenate([[0], np.cumsum(is_later)])[starts]].tolist()
    length_at = length_ends[item_starts].tolist()
    begins, item_begins, codes = starts.tolist(), item_starts.tolist(), items.tolist()
    for who in np.flatnonzero(np.diff(starts)).tolist():
        begin, end = begins[who], begins[who + 1]
        first, last = item_begins[who], item_begins[who + 1]
        some = slice(num_again[who], num_again[who + 1])
        varints = (
            steps[step_at[who] : step_at[who + 1]] + lengths[length_at[who] : length_at[who + 1]]
        )
        bodies[who] = b"".join(
            [
                BODY.pack(end - begin, last - first, len(varints), int(time_ms[begin])),
                np.packbits(is_first[begin:end]).tobytes(),
                np.packbits(is_later[begin:end]).tobytes(),
                small[some] if last - first <= SMALL else large[2 * some.start : 2 * some.stop],
                varints,
                *(ids[code] for code in codes[first:last]),
            ]
        )
    return bodies


def _decode_bodies(
    bodies: Sequence[bytes], place_of: dict[bytes, int]
) -> tuple[Int64s, Int64s, Int64s]:
    if not bodies:
        none = np.empty(0, dtype=np.int64)
        return none, none, none
    heads: list[tuple[int, int, int, int]] = []
    firsts: list[Bools] = []
    laters: list[Bools] = []
    small: list[bytes] = []
    large: list[bytes] = []
    varints: list[bytes] = []
    begin_of_ids: list[int] = []
    for body in bodies:
        if len(body) < BODY.size:
            raise damaged(f"a body of {len(body)} bytes")
        num, distinct, size, _ = head = BODY.unpack_from(body)
        wide = 1 if distinct <= SMALL else 2
        at = BODY.size + 2 * bytes_of_bits(num)
        end = at + wide * (num - distinct)
        if not 0 < distinct <= num or len(body) < end + size:
            raise damaged(f"a body of {len(body)} bytes for {num} interactions")
        heads.append(head)
        bits = np.unpackbits(np.frombuffer(body, np.uint8, at - BODY.size, BODY.size))
        firsts.append(bits[:num].view(np.bool_))
        laters.append(bits[len(bits) // 2 :][:num].view(np.bool_))
        (small if wide == 1 else large).append(body[at:end])
        varints.append(body[end : end + size])
        begin_of_ids.append(end + size)
    counts, distincts, _, bases = np.array(heads, dtype=np.int64).T
    is_first, is_later = np.concatenate(firsts), np.concatenate(laters)
    row = np.repeat(np.arange(len(bodies)), counts)
    num_later = np.bincount(row[is_later], minlength=len(bodies))
    numbers, num_numbers = _read_varints(varints)
    if (num_numbers != num_later + distincts).any():
        raise damaged(f"{num_numbers.tolist()} numbers for {counts.tolist()} interactions")
    if (np.bincount(row[is_first], minlength=len(bodies)) != distincts).any():
        raise damaged(f"other than {distincts.tolist()} items")
    # Of each body first the steps, then the lengths.
    is_step = np.repeat(
        np.tile([True, False], len(bodies)), np.stack([num_later, distincts], axis=1).reshape(-1)
    )
    step = np.zeros(len(row), dtype=np.int64)
    step[is_later] = numbers[is_step]
    begins = np.cumsum(counts) - counts
    sums = np.cumsum(step)
    time_ms = sums - (sums[begins] - step[begins])[row] + bases[row]
    item_begins = np.cumsum(distincts) - distincts
    place = np.empty(len(row), dtype=np.int64)
    place[is_first] = np.arange(int(distincts.sum()))
    again = np.empty(int((~is_first).sum()), dtype=np.int64)
    of_small = (distincts <= SMALL)[row[~is_first]]
    again[of_small] = np.frombuffer(b"".join(small), dtype="u1")
    again[~of_small] = np.frombuffer(b"".join(large), dtype="<u2")
    if (again >= distincts[row[~is_first]]).any():
        raise damaged("a place beyond its items")
    place[~is_first] = again + item_begins[row[~is_first]]
    codes = _read_ids(bodies, begin_of_ids, distincts, numbers[~is_step], place_of)
    return row, codes[place], time_ms


def _read_ids(
    bodies: Sequence[bytes],
    begins: Sequence[int],
    distincts: Int64s,
    lengths: Int64s,
    place_of: dict[bytes, int],
) -> Int64s:
    codes: list[int] = []
    sizes = iter(lengths.tolist())
    for body, begin, distinct in zip(bodies, begins, distincts.tolist(), strict=True):
        at = begin
        for size in islice(sizes, distinct):
            codes.append(place_of.setdefault(body[at : at + size], len(place_of)))
            at += size
        if at != len(body):
            raise damaged(f"a body of {len(body)} bytes, whose ids end at {at}")
    return np.array(codes, dtype=np.int64)


def bytes_of_bits(num: int) -> int:
    """Give the bytes that ``num`` bits take."""
    return (num + 7) // 8


def _steps(owner: Int64s, time_ms: Int64s) -> Int64s:
    """Give the time since the owner's interaction before, 0 for the first."""
    steps = np.diff(time_ms, prepend=time_ms[:1])
    if len(owner):
        steps[1:][owner[1:] != owner[:-1]] = 0
    return steps


def _places(
    owner: Int64s, item: Int64s, num_owners: int
) -> tuple[Int64s, Bools, Int64s, Int64s]:  # fmt: skip
    """Give the place of each interaction's item among its owner's, by first interaction.

    And whether it is that first one; all owners' items in that order, and where each owner's begin.
    """
    order = np.lexsort((item, owner))  # stable: of one item the first interaction comes first
    new = np.ones(len(order), dtype=np.bool_)
    sorted_owner, sorted_item = owner[order], item[order]
    new[1:] = (sorted_owner[1:] != sorted_owner[:-1]) | (sorted_item[1:] != sorted_item[:-1])
    first = order[new]
    by_first = np.argsort(first)
    in_order = first[by_first]
    starts = np.searchsorted(owner[in_order], np.arange(num_owners + 1))
    rank = np.empty(len(first), dtype=np.int64)
    rank[by_first] = np.arange(len(first))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = rank[np.cumsum(new) - 1] - starts[sorted_owner]
    is_first = np.zeros(len(order), dtype=np.bool_)
    is_first[first] = True
    return place, is_first, item[in_order], starts


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= _MORE:
        data.append(value & 0x7F | _MORE)
        value >>= 7
    data.append(value)
    return bytes(data)


def _varints(values: Int64s) -> tuple[bytes, Int64s]:
    """Encode numbers >= 0, seven bits a byte; gives where each begins, and the end."""
    if not len(values):
        return b"", np.zeros(1, dtype=np.int64)
    lengths = np.ones(len(values), dtype=np.int64)
    largest = int(values.max())
    for n in range(1, _MAX_VARINT):
        if largest < 1 << (7 * n):
            break
        lengths += values >= 1 << (7 * n)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = np.empty(int(starts[-1]), dtype=np.uint8)
    for n in range(int(lengths.max())):
        rows = np.flatnonzero(lengths > n)
        more = (lengths[rows] > n + 1) * _MORE
        data[starts[rows] + n] = values[rows] >> (7 * n) & 0x7F | more
    return data.tobytes(), starts


def _read_varints(pieces: Sequence[bytes]) -> tuple[Int64s, Int64s]:
    """Decode numbers; gives them, and how many there are in each piece."""
    data = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    is_last: NDArray[np.bool_] = data < _MORE
    ends = np.flatnonzero(is_last)
    bounds = np.cumsum([len(piece) for piece in pieces])
    if not len(ends) or not is_last[bounds - 1].all():
        raise damaged("a step that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if shift.max() >= _MAX_VARINT:
        raise damaged("a step of more than 63 bits")
    values = np.add.reduceat((data & 0x7F).astype(np.int64) << (7 * shift), starts)
    return values, np.diff(np.searchsorted(ends, bounds), prepend=0)


def damaged(what: str) -> FeatureError:
    """Give the error for bytes that are none of ours."""
    return FeatureError(
        f"state of a history: wanted what `recsys.features.history_codec` writes, found {what}; "
        "run `recsys backfill`"
    )
