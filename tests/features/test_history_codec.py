"""Histories as bytes: whatever they are made of comes back, and damage is named."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError
from recsys.features import history_codec, one_history
from recsys.features.history_codec import Interactions
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
    assert len(blobs[0]) == 12 + body + 12 * (3 + 1 + 3)
    assert len(blobs[1]) == 12 + 3
    assert rows_of(history_codec.decode(blobs)) == rows
    assert rows_of_one(0, blobs[0]) + rows_of_one(1, blobs[1]) == rows


def test_damage_is_named() -> None:
    rows = [(0, 5, "ab"), (0, 500, "cd"), (0, 700, "ab"), (0, 900, "e")]
    in_tail = np.array([False, False, True, True])
    (blob,) = history_codec.encode(interactions(rows), in_tail, 1)
    body = 12 + 16
    for damaged in (
        b"x",
        blob[:-1],
        blob[:-2],
        blob + b"\x00",
        blob + b"\xff",
        blob + b"\x00\xff",
        blob[:13],
        blob[:body] + b"\x09\x09" + blob[body + 2 :],
        blob[:12] + b"\x00\x00" + blob[14:],
        blob[:14] + b"\x01\x00" + blob[16:],
        blob[:16] + b"\xff\xff\xff\xff" + blob[20:],
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
    damaged = bytearray(blob)
    for at, value in flips:
        if at < len(damaged):
            damaged[at] = value
    found = []
    for read in (lambda b: rows_of(history_codec.decode([b])), lambda b: rows_of_one(0, b)):
        with contextlib.suppress(FeatureError, UnicodeDecodeError):
            found.append(read(bytes(damaged)))
    assert len(found) != 1, "both readers see the damage, or neither"
    assert not found or found[0] == found[1]
