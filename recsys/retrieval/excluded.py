"""What a search must leave out: items nobody may be shown, and those of one request.

Sources leave these out while they search, so that asking for ``k`` gives ``k`` whenever ``k``
exist. Axes: ``B`` users, ``N`` items (row 0 is padding), ``X`` excluded items, ``C`` candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Excluded:
    """Items that must not be found."""

    def __init__(self, unavailable: Tensor, index: Tensor) -> None:
        """Take ``[N + 1]`` bool for everybody (row 0 True), ``[B, X]`` int64 for each, 0 pads."""
        self.unavailable = unavailable
        self.index = index.sort(dim=1).values

    @property
    def most(self) -> int:
        """X."""
        return self.index.shape[1]

    def hits(self, index: Tensor) -> Tensor:
        """Say which of ``[B, C]`` items are excluded; padding is."""
        found = self.unavailable[index]
        if self.most == 0:
            return found
        place = torch.searchsorted(self.index, index.contiguous()).clamp(max=self.most - 1)
        return found | (self.index.gather(1, place) == index)

    def table(self) -> Tensor:
        """Give ``[B, N + 1]`` bool: every item's answer."""
        return self.unavailable.repeat(len(self.index), 1).scatter_(1, self.index, True)

    def mask(self, scores: Tensor) -> Tensor:
        """Set ``[B, N + 1]`` scores of excluded items to -inf, in place."""
        scores.masked_fill_(self.unavailable, -torch.inf)
        return scores.scatter_(1, self.index, -torch.inf)
