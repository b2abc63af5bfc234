"""Large pages for memory that is read here and there: of 2 MB where the usual ones have 4 kB.

A processor keeps where its last one or two thousand pages lie. A search reads from a few hundred
places of some hundred megabytes, and looking up where a page lies takes as long as reading it.
Advice to the operating system, no more: where it has no such pages, or its administrator turned
them off, all stays as it was.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from recsys.features.batch import Int64s

LARGE = 1 << 21
"""Bytes of a large page, and what it begins at a multiple of."""
_COLLAPSE = 25
"""``MADV_COLLAPSE`` of Linux from 6.1 on, which Python has no name for: at once, not in time."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask_for_large_pages(rows: Tensor) -> None:
    """Have what is written to a tensor on the CPU from now on lie in large pages.

    Before anything is written: what lies in small pages stays there.
    """
    if rows.device.type == "cpu" and _are_on():
        begin = -(-rows.data_ptr() // LARGE) * LARGE
        end = (rows.data_ptr() + rows.nbytes) // LARGE * LARGE
        _advise(begin, end - begin, mmap.MADV_HUGEPAGE)


def move_to_large_pages(address: Int64s, size: Int64s) -> None:
    """Move ``[M]`` pieces of memory, each of so many bytes, into large pages, as they are.

    Only where such a page is theirs for more than half: the rest of it may be anybody's.
    """
    if not _are_on():
        return
    for begin, length in _mostly(address, size):
        _advise(begin, length, mmap.MADV_HUGEPAGE)
        _advise(begin, length, _COLLAPSE)


def _mostly(address: Int64s, size: Int64s) -> Iterator[tuple[int, int]]:
    """Give where large pages begin that pieces fill for more than half, with their length.

    Those side by side are given together.
    """
    if not len(address):
        return
    origin = int(address.min()) // LARGE
    begin = address - origin * LARGE
    end = begin + size
    first, last = begin // LARGE, (end - 1) // LARGE
    filled = np.zeros(int(last.max()) + 1, np.int64)
    whole = first == last
    np.add.at(filled, first[whole], size[whole])
    for piece in np.flatnonzero(~whole):
        filled[first[piece]] += LARGE - begin[piece] % LARGE
        filled[first[piece] + 1 : last[piece]] += LARGE
        filled[last[piece]] += end[piece] - last[piece] * LARGE
    page = np.flatnonzero(filled * 2 > LARGE)
    for run in np.split(page, np.flatnonzero(np.diff(page) != 1) + 1):
        if len(run):
            yield (origin + int(run[0])) * LARGE, len(run) * LARGE


def _are_on() -> bool:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False  # not Linux
    try:
        return "[never]" not in _SETTING.read_text()
    except OSError:
        return False


def _advise(begin: int, length: int, advice: int) -> None:
    """Advise; what the system does not know or cannot do it refuses, and nothing is lost."""
    if length > 0:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(advice))
