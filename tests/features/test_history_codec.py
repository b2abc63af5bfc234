"""Histories as bytes: whatever they are made of comes back, and damage is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError
from recsys.features import history_codec
from tests.features.worlds import as_int64

TIMES = st.one_of(
    st.integers(0, 3), st.integers(0, 1 << 42), st.sampled_from([-(1 << 40), (1 << 61) - 1])
)
ITEMS = st.one_of(st.integers(0, 3), st.integers(-(1 << 63), (1 << 63) - 1))


@given(st.lists(st.lists(st.tuples(TIMES, ITEMS), max_size=12), max_size=5))
def test_what_is_written_is_read(users: list[list[tuple[int, int]]]) -> None:
    rows = [(n, *event) for n, events in enumerate(users) for event in sorted(events)]
    owner, time_ms, item = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    blobs = history_codec.encode(owner, item, time_ms, len(users))
    assert [not blob for blob in blobs] == [not events for events in users]
    found = history_codec.decode([blob or None for blob in blobs])
    for ours, theirs in zip(found, (owner, item, time_ms), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("num_items", [1, 256, 257, 512])
def test_a_heavy_user_beside_a_light_one(num_items: int) -> None:
    owner = np.repeat(as_int64([0, 1]), [512, 1])
    item = np.append(np.arange(512) % num_items, 7).astype(np.int64) - 3
    time_ms = np.append(np.arange(512) * 60_000, 5).astype(np.int64)
    blobs = history_codec.encode(owner, item, time_ms, 2)
    width = 1 if num_items <= 256 else 2
    assert len(blobs[0]) == 12 + 8 * num_items + 512 * width + 1 + 511 * 3
    found = history_codec.decode(blobs)
    for ours, theirs in zip(found, (owner, item, time_ms), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_damage_is_named() -> None:
    (blob,) = history_codec.encode(as_int64([0, 0]), as_int64([1, 2]), as_int64([5, 500]), 1)
    for damaged in (
        b"x",
        blob[:-1],
        blob[:-2],
        blob + b"\x00",
        blob[:12],
        blob[:28] + b"\x09\x09\0\0",
    ):
        with pytest.raises(FeatureError, match=r"state of a history: wanted .* found .* backfill"):
            history_codec.decode([None, damaged])
