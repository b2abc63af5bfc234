"""Keys as codes: those that lie close are looked up by place, others by hash, and mean the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recsys.features.offline_store.keys import KeyCodes

LOWEST, HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def _codes(labels: list[int | None], rows: list[int | None], kind: pa.DataType) -> list[int]:
    column = pa.chunked_array([pa.array(labels, kind)])
    keys = KeyCodes([column], [kind], ["key"], len(labels))
    return keys.of([pa.chunked_array([pa.array(rows, kind)])], len(rows)).tolist()


@pytest.mark.parametrize("far", [8, 1 << 40])
def test_rows_have_the_codes_of_the_labels_keys(far: int) -> None:
    assert _codes([7, 5, 7, far], [5, 6, 7, far, far + 1, -1], pa.int64()) == [1, -1, 0, 2, -1, -1]


@pytest.mark.parametrize("known", [LOWEST, -1, 0, HIGHEST - 1])
def test_a_key_at_the_end_of_what_an_integer_holds_is_no_other(known: int) -> None:
    rows = [LOWEST, -2, -1, 0, 1, HIGHEST - 1, HIGHEST]
    wanted = [{known: 0, known + 1: 1}.get(row, -1) for row in rows]
    assert _codes([known, known + 1], rows, pa.int64()) == wanted


def test_a_missing_key_matches_nothing() -> None:
    assert _codes([1, None, 2], [None, 2, 1], pa.int32()) == [-1, 1, 0]


def test_unsigned_keys_are_told_from_signed_ones() -> None:
    high = 2**64 - 1
    assert _codes([high, high - 1], [0, high - 1, high], pa.uint64()) == [-1, 1, 0]
