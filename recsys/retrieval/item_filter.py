"""Which items a request's filters let through, held beside the search: a mask, or a few rows.

A filter travels as what it is, pairs of a clause and a token's hash (``models/filter_tokens.py``);
here it meets the catalogue once and is kept for the requests that bring it again. When items have
changed, a filter is looked at again by whoever asks for it next: one that nobody asks for any more
costs a change nothing. Of a narrow one the rows are kept as well: a search multiplies nothing else.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``F`` pairs, ``P`` items that pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import Int32s, Int64s
from recsys.models.filter_tokens import NONE_OF

NARROW = 8
"""A filter is narrow where it leaves one item in so many, or fewer: gathering their vectors then
costs less than the product with all (measured, docs/retrieval.md)."""
_KEPT = 32
"""Filters remembered: a megabyte each at a million items."""


class Passing:
    """The items one filter lets through. Availability is not looked at here."""

    def __init__(self, refused: Tensor) -> None:
        """Take ``[N + 1]`` bool, row 0 True."""
        self.refused = refused

    @cached_property
    def rows(self) -> Tensor | None:
        """``[P]`` int64 ascending where the filter is narrow, else None."""
        count = len(self.refused) - int(self.refused.sum())
        if count * NARROW > len(self.refused):
            return None
        return (~self.refused).nonzero().flatten()


class TokenRows(Protocol):
    """Which items have which tokens (``recsys/bundle/item_tags.py``)."""

    def rows_of(self, wanted: int) -> Int32s:
        """Give the rows of the items that have the token of a hash; none for an unknown one."""

    def change(self, tags: Mapping[int, Iterable[str]]) -> None:
        """Give rows other tokens from now on."""


class ItemFilters:
    """Turns filters into the items of one catalogue."""

    def __init__(self, tags: TokenRows, *, num_items: int, device: torch.device) -> None:
        """Take the tokens of items ``1 … N``."""
        self._tags = tags
        self._num_items = num_items
        self._device = device
        self._version = 0
        """How often items came or changed."""
        self._known: OrderedDict[bytes, tuple[int, Passing]] = OrderedDict()
        """Filters with the version they were last looked at in."""

    def of(self, filters: Tensor) -> list[Passing | None]:
        """Give what passes for each of ``[B, F, 2]`` filters; None: everything (0 pads)."""
        if not filters.any():
            return [None] * len(filters)
        return [self._one(row[row[:, 0] != 0]) for row in filters.cpu().numpy()]

    def grow(self, num_rows: int) -> None:
        """Have so many rows, padding counted; what tokens the new ones have comes by ``change``."""
        self._num_items = num_rows - 1
        self._version += 1

    def change(self, tags: Mapping[int, Iterable[str]]) -> None:
        """Give rows other tokens from now on; filters that they do not move in stay as they are."""
        self._tags.change(tags)
        self._version += 1

    def _one(self, pairs: Int64s) -> Passing | None:
        if not len(pairs):
            return None
        pairs = np.unique(pairs, axis=0)  # the same filter in another order is the same
        key = pairs.tobytes()
        version, passing = self._known.get(key, (None, None))
        if version != self._version:
            refused = self._refused(pairs)
            # The same object where nothing moved: what others keep of it stays good.
            if passing is None or not torch.equal(passing.refused, refused):
                passing = Passing(refused)
            self._known[key] = self._version, passing
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return passing

    def _refused(self, pairs: Int64s) -> Tensor:
        refused = np.zeros(self._num_items + 1, dtype=np.bool_)
        refused[0] = True
        for clause in np.unique(pairs[:, 0]).tolist():
            named = np.zeros_like(refused)
            for hashed in pairs[pairs[:, 0] == clause, 1].tolist():
                named[self._tags.rows_of(hashed)] = True
            refused |= named if clause == NONE_OF else ~named
        return torch.from_numpy(refused).to(self._device)
