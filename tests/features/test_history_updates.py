"""Interactions added to histories: the bytes depend on what was told, not on how."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features import history_codec, history_updates
from recsys.features.history_updates import added
from tests.features.generated_logs import EXAMPLES
from tests.features.test_history_codec import Row, interactions, rows_of
from tests.features.worlds import as_int64

NUM = 3
"""Users."""
ROWS = st.lists(
    st.tuples(st.integers(0, NUM - 1), st.integers(0, 60), st.sampled_from("abcdefg")), max_size=90
)


class Store:
    """States as the stream keeps them."""

    def __init__(self) -> None:
        self.blobs = [b""] * NUM
        self.newest_ms = as_int64([-(2**60)] * NUM)
        self.num_laid_out = 0

    def tell(self, rows: list[Row]) -> None:
        more = interactions(rows)
        self.blobs = added(self.blobs, self.newest_ms, more)
        np.maximum.at(self.newest_ms, more.owner, more.time_ms)


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count states that were laid out anew."""
    counts: list[int] = []
    whole = history_updates._laid_out

    def counted(blobs: list[bytes], more: history_codec.Interactions) -> list[bytes]:
        counts.append(len(blobs))
        return whole(blobs, more)

    monkeypatch.setattr(history_updates, "_laid_out", counted)
    return counts


@settings(max_examples=EXAMPLES * 2)
@given(ROWS, st.lists(st.integers(0, 90), max_size=6), st.sampled_from([4, 9, 1000]))
def test_the_bytes_are_a_function_of_what_was_told(
    rows: list[Row], cuts: list[int], kept: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_updates, "HISTORY_EVENTS", kept)
        patch.setattr(history_updates, "_CUT_SHIFT", np.uint64(62))  # one in four
        once, often, one_by_one = Store(), Store(), Store()
        once.tell(rows)
        ends = [0, *sorted(cuts), len(rows)]
        for begin, end in pairwise(ends):
            often.tell(rows[begin:end])
        for row in sorted(rows, key=lambda row: row[1]):
            one_by_one.tell([row])
    assert once.blobs == often.blobs == one_by_one.blobs
    found = rows_of(history_codec.decode(once.blobs))
    for user in range(NUM):
        every = sorted(t for o, t, _ in rows if o == user)
        own = [(t, i) for o, t, i in found if o == user]
        assert len(own) >= min(kept, len(every))
        assert [t for t, _ in own] == every[len(every) - len(own) :]
        if kept == 1000:
            assert sorted(own) == sorted((t, i) for o, t, i in rows if o == user)


def test_what_comes_in_order_is_mostly_appended(laid_out: list[int]) -> None:
    store = Store()
    for n in range(2000):
        store.tell([(0, 1000 * n, f"i{n % 50}"), (1, 7 + 1000 * n, f"i{n % 9}")])
    assert 2000 / 32 < sum(laid_out) < 2 * 2 * 2000 / 32
    for blob in store.blobs[:2]:
        assert 256 <= len(history_codec.decode([blob]).owner) < 256 + 200
        assert len(blob) < 2_600
    before = sum(laid_out)
    store.tell([(0, 5, "late")])
    assert sum(laid_out) == before + 1
