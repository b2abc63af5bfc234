"""What a request's filters say of items, as it travels to the model server.

A filter is a conjunction: of each clause an item must have one token, and of the unwanted tokens
none. Tokens are the ``key=value`` ones of the catalogue, so a category is the token
``category=NAME``; one that no item has lets nothing pass a clause, and refuses nothing.

Axes: ``F`` pairs of a clause and a token's hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.features.batch import Int64s
from recsys.features.names import token_hash

NONE_OF = -1
"""The clause of unwanted tokens; wanted ones have clauses from 1 on, and 0 pads."""


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items may be shown."""

    clauses: tuple[tuple[str, ...], ...] = ()
    """Of each, one token must be the item's."""
    unwanted: tuple[str, ...] = ()
    """None of these may be."""

    @classmethod
    def of(
        cls, *, categories: Sequence[str] = (), exclude_categories: Sequence[str] = (),
        tags: Sequence[str] = (), exclude_tags: Sequence[str] = (),
    ) -> ItemFilter:  # fmt: skip
        """Give the filter of a request: one clause of its categories, and one for each tag's key.

        >>> ItemFilter.of(categories=["toys"], tags=["land=DE", "land=AT", "size=L"]).clauses
        (('category=toys',), ('land=DE', 'land=AT'), ('size=L',))
        """
        by_key: dict[str, list[str]] = {}
        for tag in tags:
            by_key.setdefault(tag.partition("=")[0], []).append(tag)
        wanted = tuple(f"category={name}" for name in categories)
        clauses = ((wanted,) if wanted else ()) + tuple(map(tuple, by_key.values()))
        unwanted = tuple(f"category={name}" for name in exclude_categories)
        return cls(clauses, unwanted + tuple(exclude_tags))

    def __bool__(self) -> bool:
        """Say whether it asks for anything."""
        return bool(self.clauses or self.unwanted)

    def pairs(self) -> Int64s:
        """Give ``[F, 2]``; one pair of padding where nothing is asked for."""
        found = [
            (clause, token_hash(token))
            for clause, tokens in enumerate(self.clauses, start=1)
            for token in tokens
        ]
        found += [(NONE_OF, token_hash(token)) for token in self.unwanted]
        return np.array(found or [(0, 0)], dtype=np.int64)


ALL_PASS = ItemFilter()
"""Lets every item through."""
