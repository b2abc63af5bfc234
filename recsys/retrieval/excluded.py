"""What a search must leave out: items nobody may be shown, those of one request, and by filters.

Sources leave these out while they search, so that asking for ``k`` gives ``k`` whenever ``k``
exist. Axes: ``B`` users, ``N`` items (row 0 is padding), ``X`` excluded items, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from recsys.features.batch import Bools, Int64s
from recsys.retrieval.item_filter import Passing

_MANY = 4
_FEW = 32
"""For so many rows of scores, one item in so many being unavailable, items are looked up rather
than all scores gone through: 32 rows of a million took 2 ms and not 42."""


class Excluded:
    """Items that must not be found."""

    def __init__(
        self, unavailable: Tensor, index: Tensor, passing: Sequence[Passing | None] = ()
    ) -> None:
        """Take what nobody and what each user must not get.

        Args:
            unavailable: ``[N + 1]`` bool, row 0 True.
            index: ``[B, X]`` int64, 0 pads.
            passing: What each user's filters let through, None: everything; empty: nobody has
                any.
        """
        self.unavailable = unavailable
        self.index = index
        self._passing = passing
        self.filters: list[tuple[Passing, Tensor]] = []
        """Each distinct filter with the users ``[Bf]`` int64 who have it."""
        for one in dict.fromkeys(passing):
            if one is not None:
                users = [user for user, theirs in enumerate(passing) if theirs is one]
                self.filters.append((one, torch.tensor(users, device=index.device)))

    @cached_property
    def _in_order(self) -> Tensor:
        return self.index.sort(dim=1).values

    @property
    def most(self) -> int:
        """X."""
        return self.index.shape[1]

    def groups(self) -> list[tuple[Passing | None, Tensor]]:
        """Give all users by their filters, those without any last."""
        rest = torch.ones(len(self.index), dtype=torch.bool, device=self.index.device)
        for _, users in self.filters:
            rest[users] = False
        nobody: list[tuple[Passing | None, Tensor]] = []
        if rest.any():
            nobody.append((None, rest.nonzero().flatten()))
        return [*self.filters, *nobody]

    def of(self, users: Tensor) -> Excluded:
        """Give what holds for ``[Bf]`` of the users."""
        passing = [self._passing[user] for user in users.tolist()] if self._passing else ()
        return Excluded(self.unavailable, self.index[users], passing)

    def hits(self, index: Tensor) -> Tensor:
        """Say which of ``[B, C]`` items are excluded; padding is."""
        found = torch.take(self.unavailable, index)
        for passing, users in self.filters:
            found[users] |= passing.refused[index[users]]
        if self.most == 0:
            return found
        place = torch.searchsorted(self._in_order, index.contiguous()).clamp_(max=self.most - 1)
        return found | (self._in_order.gather(1, place) == index)

    def hits_of_one(self, rows: Int64s, unavailable: Bools) -> Bools:
        """Say it of ``[1, C]`` rows of the only user, who has no filter, in numpy.

        ``unavailable`` is ``self.unavailable`` as an array, which whoever asks often keeps.
        """
        found: Bools = unavailable.take(rows)
        if self.most:
            theirs = self._in_order.numpy()[0]
            found |= theirs.take(theirs.searchsorted(rows), mode="clip") == rows
        return found

    def table(self) -> Tensor:
        """Give ``[B, N + 1]`` bool: every item's answer."""
        every = self.unavailable.expand(len(self.index), -1)
        every = every.clone(memory_format=torch.contiguous_format)
        for passing, users in self.filters:
            every[users] |= passing.refused
        return every.scatter_(1, self.index, True)

    def mask(self, scores: Tensor) -> Tensor:
        """Set scores of excluded items to -inf, in place: ``[B, N + 1]``, or ``[B, S, N + 1]``."""
        alone = scores.dim() == 2
        if self.filters:
            table = self.table()
            return scores.masked_fill_(table if alone else table.unsqueeze(1), -torch.inf)
        many = scores.shape[:-1].numel() >= _MANY
        rows = self.unavailable.nonzero().flatten() if many else None
        if rows is not None and len(rows) * _FEW <= len(self.unavailable):
            scores.index_fill_(-1, rows, -torch.inf)
        else:
            scores.masked_fill_(self.unavailable, -torch.inf)
        index = self.index if alone else self.index.unsqueeze(1).expand(-1, scores.shape[1], -1)
        return scores.scatter_(-1, index, -torch.inf)
