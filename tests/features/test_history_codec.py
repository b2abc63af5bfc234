"""Histories as bytes: whatever they are made of comes back, and damage is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError
from recsys.features import history_codec, one_history
from recsys.features.history_body import deflated, inflated
from recsys.features.history_codec import HEAD, Interactions
from tests.features.worlds import as_int64

TIMES = st.one_of(
    st.integers(0, 3), st.integers(0, 1 << 42), st.sampled_from([-(1 << 40), (1 << 61) - 1])
)
IDS = st.one_of(st.sampled_from(["i1", "i2", "", "é" * 70, "x" * 200]), st.text(max_size=9))
EVENTS = st.lists(st.tuples(TIMES, IDS), max_size=12)
Row = tuple[int, int, str]


def interactions(rows: list[Row]) -> Interactions:
    ids = sorted({item_id.encode() for _, _, item_id in rows})
    owner, time_ms = as_int64([r[0] for r in rows]), as_int64([r[1] for r in rows])
    return Interactions(owner, as_int64([ids.index(r[2].encode()) for r in rows]), time_ms, ids)


def rows_of(found: Interactions) -> list[Row]:
    columns = (found.owner.tolist(), found.time_ms.tolist(), found.item.tolist())
    return [(o, t, found.ids[i].decode()) for o, t, i in zip(*columns, strict=True)]


def rows_of_one(owner: int, blob: bytes) -> list[Row]:
    items, times = one_history.interactions(blob)
    return [(owner, t, item.decode()) for item, t in zip(items, times, strict=True)]


@given(st.lists(st.tuples(EVENTS, st.integers(0, 12)), max_size=5))
def test_what_is_written_is_read(users: list[tuple[list[tuple[int, str]], int]]) -> None:
    rows = [(n, *event) for n, (events, _) in enumerate(users) for event in sorted(events)]
    in_tail = [k >= body for events, body in users for k in range(len(events))]
    blobs = history_codec.encode(interactions(rows), np.array(in_tail, dtype=bool), len(users))
    assert [not blob for blob in blobs] == [not events for events, _ in users]
    assert rows_of(history_codec.decode([blob or None for blob in blobs])) == rows
    assert [row for n, blob in enumerate(blobs) for row in rows_of_one(n, blob)] == rows


@pytest.mark.parametrize("num_items", [1, 256, 257, 512])
def test_a_heavy_user_beside_a_light_one(num_items: int) -> None:
    rows = [(0, n * 60_000, f"{n % num_items:03}") for n in range(512)] + [(1, 5, "x")]
    in_tail = np.array([n >= 500 for n in range(513)])
    blobs = history_codec.encode(interactions(rows), in_tail, 2)
    width, num = (1 if num_items <= 256 else 2), min(num_items, 500)
    body = 16 + 2 * 63 + (500 - num) * width + 499 * 3 + num * (1 + 3)
    stored, tail = body_of(blobs[0])
    assert (len(inflated(stored)), len(tail)) == (body, 12 * (3 + 1 + 3))
    assert len(blobs[0]) == 12 + len(stored) + len(tail)
    assert len(blobs[1]) == 12 + 3
    assert rows_of(history_codec.decode(blobs)) == rows
    assert rows_of_one(0, blobs[0]) + rows_of_one(1, blobs[1]) == rows


def body_of(blob: bytes) -> tuple[bytes, bytes]:
    """Give the stored body, and the tail."""
    size, _ = HEAD.unpack_from(blob)
    return blob[HEAD.size : HEAD.size + size], blob[HEAD.size + size :]


def with_body(blob: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Give the blob with another body, well deflated."""
    stored, tail = body_of(blob)
    _, base_ms = HEAD.unpack_from(blob)
    other = deflated([change(inflated(stored))])
    return HEAD.pack(len(other), base_ms) + other + tail


def test_ids_of_few_characters_take_half_their_bytes() -> None:
    rng = np.random.default_rng(7)
    items = [f"{n:05}" for n in rng.integers(10_000, 99_999, 256)]
    rows = [(0, 90_000_000 * (n // 16), item) for n, item in enumerate(items)]  # 16 invoices
    (blob,) = history_codec.encode(interactions(rows), np.zeros(256, dtype=bool), 1)
    stored, tail = body_of(blob)
    assert not tail
    assert len(stored) < 0.55 * len(inflated(stored))


def test_damage_is_named() -> None:
    rows = [(0, 5, "ab"), (0, 500, "cd"), (0, 700, "ab"), (0, 900, "e")]
    in_tail = np.array([False, False, True, True])
    (blob,) = history_codec.encode(interactions(rows), in_tail, 1)
    for damaged in (
        b"x",
        blob[:-1],
        blob[:-2],
        blob + b"\x00",
        blob + b"\xff",
        blob + b"\x00\xff",
        blob[:13],
        blob[:12] + b"\xff" + blob[13:],  # no such block
        blob[:12] + blob[13:],
        with_body(blob, lambda body: body[:16] + b"\x09\x09" + body[18:]),
        with_body(blob, lambda body: b"\x00\x00" + body[2:]),
        with_body(blob, lambda body: body[:2] + b"\x01\x00" + body[4:]),
        with_body(blob, lambda body: body[:4] + b"\xff\xff\xff\xff" + body[8:]),
        with_body(blob, lambda body: body[:9]),
        with_body(blob, lambda body: body[:-1]),
        with_body(blob, lambda body: body + b"\x00"),
        b"\x00\x00\x00\x00" + blob[4:12] + b"\x80" * 12 + b"\x01\x00",
    ):
        with pytest.raises(FeatureError, match=r"state of a history: wanted .* found .* backfill"):
            history_codec.decode([None, damaged])
        with pytest.raises(FeatureError, match=r"state of a history: wanted .* found .* backfill"):
            one_history.interactions(damaged)


@given(EVENTS, st.integers(0, 12), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))))
def test_damage_is_an_error_of_ours_or_other_values(
    events: list[tuple[int, str]], body: int, flips: list[tuple[int, int]]
) -> None:
    rows = [(0, *event) for event in sorted(events)]
    in_tail = np.arange(len(rows)) >= body
    (blob,) = history_codec.encode(interactions(rows), in_tail, 1)

    def flipped(data: bytes) -> bytes:
        damaged = bytearray(data)
        for at, value in flips:
            if at < len(damaged):
                damaged[at] = value
        return bytes(damaged)

    for damaged in (flipped(blob), with_body(blob, flipped) if body and rows else blob):
        found = []
        for read in (lambda b: rows_of(history_codec.decode([b])), lambda b: rows_of_one(0, b)):
            with contextlib.suppress(FeatureError, UnicodeDecodeError):
                found.append(read(damaged))
        assert len(found) != 1, "both readers see the damage, or neither"
        assert not found or found[0] == found[1]
