"""Memory is moved into large pages where it is most of them, and reads the same afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys import large_pages
from recsys.large_pages import LARGE, ask_for_large_pages, move_to_large_pages
from recsys.models.growing_rows import GrowingRows


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, int]]:
    """What advice was asked for, as begins and lengths; none is given."""
    asked: list[tuple[int, int]] = []
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "_SETTING", setting)
    monkeypatch.setattr(large_pages.mmap, "MADV_HUGEPAGE", 14, raising=False)
    monkeypatch.setattr(large_pages, "_advise", lambda *a: asked.append(a[:2]) if a[1] else None)
    return asked


def test_pages_that_pieces_fill_for_more_than_half_are_moved(
    advised: list[tuple[int, int]],
) -> None:
    origin = 7 * LARGE
    # Two thirds of the first page, a third of the second, all of the fourth, fifth and sixth.
    pieces = [(origin, LARGE // 3), (origin + LARGE // 3, LARGE // 3)]
    pieces += [(origin + LARGE, LARGE // 3), (origin + 3 * LARGE, 3 * LARGE)]
    address, size = np.array(pieces).T
    move_to_large_pages(address, size)
    assert set(advised) == {(origin, LARGE), (origin + 3 * LARGE, 3 * LARGE)}


def test_nothing_is_moved_where_there_is_nothing_or_large_pages_are_off(
    advised: list[tuple[int, int]],
) -> None:
    nothing = np.zeros(0, np.int64)
    move_to_large_pages(nothing, nothing)
    large_pages._SETTING.write_text("always madvise [never]\n")
    move_to_large_pages(np.array([0]), np.array([LARGE]))
    ask_for_large_pages(torch.empty(LARGE))
    large_pages._SETTING.unlink()
    move_to_large_pages(np.array([0]), np.array([LARGE]))
    assert advised == []


def test_rows_with_room_ask_for_the_large_pages_within_them(
    advised: list[tuple[int, int]],
) -> None:
    rows = GrowingRows(torch.ones(LARGE, 1), room=LARGE)
    (begin, length), at = advised[0], rows.rows.data_ptr()
    assert begin % LARGE == length % LARGE == 0
    assert (
        at <= begin < at + LARGE and at + 8 * LARGE - 2 * LARGE < begin + length <= at + 8 * LARGE
    )


def test_what_lies_in_moved_memory_reads_the_same() -> None:
    array = np.random.default_rng(1).integers(0, 255, 4 * LARGE, dtype=np.uint8)
    before = array.copy()
    move_to_large_pages(np.array([array.ctypes.data]), np.array([array.nbytes]))
    assert np.array_equal(array, before)
