"""Vectors of the items a batch mentions, where those of all items are not decoded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LocalVectors(NamedTuple):
    """The vectors some items need, with places in them instead of rows of the whole table."""

    place: Tensor
    """Shaped as the items asked for, 0 where they are padding."""
    vectors: Tensor
    """``[U, D]`` float32; row 0 is padding's."""
    row: Tensor | None
    """``[U]`` rows of the whole table; None: all of them in their order."""


def appearing(index: Tensor) -> tuple[Tensor, Tensor]:
    """Give the distinct rows of ``index`` (any shape), 0 first, and each one's place among them."""
    index = index.long()
    every = torch.cat([index.new_zeros(1), index.flatten()])
    row, place = torch.unique(every, return_inverse=True)
    return row, place[1:].view(index.shape)
