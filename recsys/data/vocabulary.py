"""Outside identities to table rows and back. Row 0 is always padding: "nothing here".

A vocabulary is frozen with the bundle that was trained on it. What serves may give further rows to
items that came since (``GrowingVocabulary``); those mean something in its own process alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.errors import InputError
from recsys.features.batch import Int32s

PADDING_INDEX = 0


@dataclass(frozen=True)
class Vocabulary:
    """Items ``1 … N`` and categories ``0 … G - 1`` of one bundle."""

    item_ids: Sequence[str]
    """``item_ids[i - 1]`` is the identity of row ``i``."""
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, values in (("item_ids", self.item_ids), ("categories", self.categories)):
            if len(set(values)) != len(values):
                raise InputError(f"{name} of a vocabulary must be distinct; found duplicates")

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return len(self.item_ids)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Row of each item identity."""
        return dict(zip(self.item_ids, range(1, len(self.item_ids) + 1), strict=True))

    @cached_property
    def category_index_of(self) -> dict[str, int]:
        """Column of each category."""
        return {category: column for column, category in enumerate(self.categories)}

    def indexes(self, item_ids: Iterable[str]) -> Int32s:
        """Give the rows of ``item_ids``; 0 for an unknown one."""
        index_of = self.index_of
        return np.fromiter((index_of.get(i, PADDING_INDEX) for i in item_ids), dtype=np.int32)

    def ids(self, indexes: Iterable[int]) -> Sequence[str]:
        """Give the identities of rows ``1 … N``; padding rows are skipped."""
        return [self.item_ids[i - 1] for i in indexes if i != PADDING_INDEX]


class GrowingVocabulary(Vocabulary):
    """One that takes in further items at its end; categories stay.

    One thread adds, any may read.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(list(vocabulary.item_ids), vocabulary.categories)
        _ = self.index_of  # made here, and not by two readers at once

    def __post_init__(self) -> None:
        """They are a vocabulary's, and so distinct."""

    def add(self, item_id: str) -> int:
        """Give a new item its row. Whoever finds the row finds its identity as well."""
        index_of, item_ids = self.index_of, self.item_ids
        assert isinstance(item_ids, list) and item_id not in index_of
        item_ids.append(item_id)
        index_of[item_id] = row = len(item_ids)
        return row
