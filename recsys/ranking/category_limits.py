"""How many items of a category a list may and must have, as a mask on what may stand next.

Bounds work while the list is made and not on it afterwards: which items may stand next is then a
function of the list above alone, and the chance of each can be stated.

Axes: ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recsys.features.batch import Bools, Int32s


@dataclass(frozen=True, kw_only=True)
class CategoryBounds:
    """What is asked of a list; categories by column of the vocabulary."""

    most_of_each: int | None = None
    """For every category; items without a category are not limited."""
    most: Mapping[int, int] = field(default_factory=dict)
    """For single ones; the tighter of the two holds."""
    least: Mapping[int, int] = field(default_factory=dict)
    """Never more than the most that holds."""

    def __bool__(self) -> bool:
        return self.most_of_each is not None or bool(self.most) or bool(self.least)


NO_BOUNDS = CategoryBounds()


class CategoryCount:
    """Counts the categories of a growing list against bounds."""

    def __init__(self, category_index: Int32s, bounds: CategoryBounds, *, length: int) -> None:
        """Begin an empty list of ``length`` places from candidates of categories ``[C]``."""
        present, self._code = np.unique(category_index, return_inverse=True)
        most = np.full(len(present), length if bounds.most_of_each is None else bounds.most_of_each)
        least = np.zeros(len(present), dtype=np.int64)
        for code, category in enumerate(present.tolist()):
            most[code] = min(most[code], bounds.most.get(category, length))
            least[code] = bounds.least.get(category, 0)
        most[present < 0] = length + len(category_index)
        self._most = most
        self._least = np.minimum(least, most)
        self._has_least = bool(self._least.any())
        self._count = np.zeros(len(present), dtype=np.int64)
        self._places_left = length

    def add(self, place: int) -> None:
        """Take note that the candidate at ``place`` stands in the list; its place is used up."""
        self._count[self._code[place]] += 1
        self._places_left -= 1

    def allowed(self, open_: Bools) -> Bools:
        """Say which of the ``open_`` candidates ``[C]`` may stand next: at least one, if any is.

        The most of a category gives way when nothing else is left: a full list with a broken bound
        serves better than a short one. The least of a category is kept as far as there are items
        of it, by leaving it the last places of the list.
        """
        within: Bools = open_ & (self._count < self._most)[self._code]
        if not within.any():
            return open_
        if not self._has_least:
            return within
        there = np.bincount(self._code[within], minlength=len(self._count))
        missing = np.minimum(self._least - self._count, self._most - self._count)
        missing = np.clip(missing, 0, there)
        if int(missing.sum()) < self._places_left:
            return within
        must: Bools = within & (missing > 0)[self._code]
        return must if must.any() else within
