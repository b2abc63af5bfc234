"""The body of a history: the interactions that are seldom written, each item once.

Deflated (RFC 1951), of ``u16 N | u16 D | u32 bytes of the varints | i64 first time |
N bits: the first with its item | N bits: later than the one before | N - D x place of the item of
the others, u8 when D <= 256, else u16 | varints: the steps in time that are not 0, D lengths |
D ids``, items in the order of their first interaction. Shopping has many steps of 0 (the lines of
an invoice) and many items that come once; ids share their few characters, which halves them. Which
bytes deflating gives depends on the machine's zlib, what they hold does not.

Axes: ``N`` interactions of ``Q`` users, sorted by owner and then as a history is; ``D`` items.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import islice

import numpy as np

from recsys.errors import FeatureError
from recsys.features.batch import Bools, Int64s
from recsys.features.varints import read_varints, varints

BODY = struct.Struct("<HHIq")
SMALL = 256
"""Items whose places fit into a byte."""
_LEVEL = 1
_RAW = -zlib.MAX_WBITS
"""Without zlib's header and checksum, 6 bytes."""


def encode_bodies(
    owner: Int64s, item: Int64s, time_ms: Int64s, ids: Sequence[bytes], num_owners: int
) -> list[bytes]:
    """Give the body of each user; ``item`` are places in ``ids``. Nothing for no interactions."""
    bodies = [b""] * num_owners
    if not len(owner):
        return bodies
    starts = np.searchsorted(owner, np.arange(num_owners + 1))
    place, is_first, items, item_starts = _places(owner, item, num_owners)
    step = steps_of(owner, time_ms)
    is_later = step > 0
    steps, step_ends = varints(step[is_later])
    sizes = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    lengths, length_ends = varints(sizes[items])
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
        numbers = (
            steps[step_at[who] : step_at[who + 1]] + lengths[length_at[who] : length_at[who + 1]]
        )
        bodies[who] = deflated(
            [
                BODY.pack(end - begin, last - first, len(numbers), int(time_ms[begin])),
                np.packbits(is_first[begin:end]).tobytes(),
                np.packbits(is_later[begin:end]).tobytes(),
                small[some] if last - first <= SMALL else large[2 * some.start : 2 * some.stop],
                numbers,
                *(ids[code] for code in codes[first:last]),
            ]
        )
    return bodies


def decode_bodies(
    bodies: Sequence[bytes], place_of: dict[bytes, int]
) -> tuple[Int64s, Int64s, Int64s]:
    """Give the owner of each interaction, as a place in ``bodies``, its item and its time.

    ``place_of`` numbers the ids of items, and is given those it lacks.

    Raises:
        FeatureError: when a body is damaged.
    """
    if not bodies:
        none = np.empty(0, dtype=np.int64)
        return none, none, none
    bodies = list(map(inflated, bodies))
    heads: list[tuple[int, int, int, int]] = []
    firsts: list[Bools] = []
    laters: list[Bools] = []
    small: list[bytes] = []
    large: list[bytes] = []
    encoded: list[bytes] = []
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
        encoded.append(body[end : end + size])
        begin_of_ids.append(end + size)
    counts, distincts, _, bases = np.array(heads, dtype=np.int64).T
    is_first, is_later = np.concatenate(firsts), np.concatenate(laters)
    row = np.repeat(np.arange(len(bodies)), counts)
    num_later = np.bincount(row[is_later], minlength=len(bodies))
    try:
        numbers, num_numbers = read_varints(encoded)
    except ValueError as error:
        raise damaged(str(error)) from None
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


def deflated(parts: Sequence[bytes]) -> bytes:
    """Give a body, made of these parts, as it is stored."""
    return zlib.compress(b"".join(parts), _LEVEL, _RAW)


def inflated(stored: bytes) -> bytes:
    """Give the body that is stored so.

    Raises:
        FeatureError: when it is damaged.
    """
    try:
        return zlib.decompress(stored, _RAW)
    except zlib.error as error:
        raise damaged(f"{len(stored)} bytes of a body ({error})") from None


def bytes_of_bits(num: int) -> int:
    """Give the bytes that ``num`` bits take."""
    return (num + 7) // 8


def steps_of(owner: Int64s, time_ms: Int64s) -> Int64s:
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


def damaged(what: str) -> FeatureError:
    """Give the error for bytes that are none of ours."""
    return FeatureError(
        f"state of a history: wanted what `recsys.features.history_codec` writes, found {what}; "
        "run `recsys backfill`"
    )
