"""Sequences of unequal length laid end to end in rows, so that hardly a place is padding.

A batch padded to its longest sequence is mostly padding where lengths differ (Amazon Beauty: 7
events on average, 50 at most: 86 % of a padded batch is nothing). Rows as long as the longest
sequence, each filled with several, leave a few per cent. Attention must not look across
(``attention.py``); everything else works place by place and does not notice.

Axes: ``B`` sequences, ``R`` rows, ``S`` places of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Whose place is whose."""

    segment: Tensor
    """``[R, S]`` int64: places of a row with the same number are one sequence, next to each other
    and oldest first; -1 is padding."""
    from_newest: Tensor
    """``[R, S]`` int64: 0 for the newest of a sequence, 1 for the one before; 0 for padding."""

    @classmethod
    def of_mask(cls, mask: Tensor) -> Places:
        """Give the places of one sequence a row, ``[R, S]`` bool True where it has an entry."""
        used = mask.long()
        after = used.flip(1).cumsum(1).flip(1) - used
        return cls(segment=used - 1, from_newest=after * used)

    def to(self, device: torch.device) -> Places:
        """Give the same on another device."""
        return Places(
            segment=self.segment.to(device, non_blocking=True),
            from_newest=self.from_newest.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Sequences in rows."""

    source: Tensor
    """``[R, S]`` int64: position of each place's event in the flat events, 0 for padding."""
    places: Places


def pack(begin: NDArray[np.int64], length: NDArray[np.int64], *, row_length: int) -> Packed:
    """Lay ``B`` stretches of a flat array of events in rows.

    Each row takes the longest stretch that is left and still fits, until none does (best-fit
    decreasing: at most 11/9 of the least number of rows, Johnson 1973; in practice a row or two).

    Args:
        begin: ``[B]`` where each stretch begins.
        length: ``[B]`` events of it, 1 … ``row_length``.
        row_length: S.
    """
    assert len(length) == 0 or (length.min() >= 1 and length.max() <= row_length)
    by_length: list[list[int]] = [[] for _ in range(row_length + 1)]
    for number, size in enumerate(length.tolist()):
        by_length[size].append(number)
    order: list[int] = []
    """Stretches in the order in which they are laid."""
    row: list[int] = []
    column: list[int] = []
    num_rows = 0
    longest = row_length
    while len(order) < len(length):
        used, fits = 0, longest
        while fits > 0:
            if by_length[fits]:
                order.append(by_length[fits].pop())
                row.append(num_rows)
                column.append(used)
                used += fits
                fits = min(fits, row_length - used)
            else:
                if used == 0:
                    longest = fits - 1  # nobody has this length any more
                fits -= 1
        num_rows += 1
    return _lay(begin[order], length[order], np.array(row), np.array(column), num_rows, row_length)


def _lay(
    begin: NDArray[np.int64],
    length: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    num_rows: int,
    row_length: int,
) -> Packed:
    source = np.zeros(num_rows * row_length, dtype=np.int64)
    segment = np.full(num_rows * row_length, -1, dtype=np.int64)
    from_newest = np.zeros(num_rows * row_length, dtype=np.int64)
    within = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    place = np.repeat(row.astype(np.int64) * row_length + column.astype(np.int64), length) + within
    source[place] = np.repeat(begin, length) + within
    segment[place] = np.repeat(np.arange(len(length)), length)
    from_newest[place] = np.repeat(length, length) - 1 - within
    shape = (num_rows, row_length)
    return Packed(
        source=torch.from_numpy(source).view(shape),
        places=Places(
            segment=torch.from_numpy(segment).view(shape),
            from_newest=torch.from_numpy(from_newest).view(shape),
        ),
    )
