"""Scores of a few items for each user, 0 for all others, without a row of the whole catalogue.

Axes: ``B`` users, ``E`` entries (an item may have several), ``C`` candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NO_ITEM = torch.iinfo(torch.int64).max
"""Above every item, so that entries stay in order."""


class ItemGroups:
    """The distinct items among ``[B, E]`` entries, in order."""

    def __init__(self, index: Tensor) -> None:
        """Take int64 items, 0 pads."""
        key, self._order = index.sort(dim=1, stable=True)
        begins = torch.ones_like(key, dtype=torch.bool)
        begins[:, 1:] = key[:, 1:] != key[:, :-1]
        self._group = begins.cumsum(dim=1) - 1
        self.item = torch.full_like(key, _NO_ITEM).scatter_(1, self._group, key)
        """``[B, E]`` ascending; what is left over is above every item."""

    def summed(self, value: Tensor) -> Tensor:
        """Add up ``[B, E]`` values of entries by item: ``[B, E]``, aligned with ``item``."""
        ordered = value.gather(1, self._order)
        return torch.zeros_like(value).scatter_add_(1, self._group, ordered)


class SparseScores:
    """Sums by item."""

    def __init__(self, groups: ItemGroups, value: Tensor) -> None:
        """Take ``[B, E]`` values of the entries ``groups`` was made of."""
        self._item = groups.item
        self._total = groups.summed(value).masked_fill_(self._item == 0, 0.0)

    def of(self, index: Tensor) -> Tensor:
        """Give ``[B, C]`` scores of items, 0 where there is none."""
        if self._item.shape[1] == 0:
            return self._total.new_zeros(index.shape)
        place = torch.searchsorted(self._item, index.contiguous())
        place = place.clamp_(max=self._item.shape[1] - 1)
        return self._total.gather(1, place) * (self._item.gather(1, place) == index)

    def entries(self) -> tuple[Tensor, Tensor]:
        """Give all items ``[B, E]`` int64 (0 pads) and their scores."""
        return torch.where(self._item == _NO_ITEM, 0, self._item), self._total
