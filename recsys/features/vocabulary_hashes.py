"""From hashes of items, which state carries, to rows of a vocabulary."""

from __future__ import annotations

import numpy as np

from recsys.data.vocabulary import Vocabulary
from recsys.errors import InputError
from recsys.features.batch import Int32s, Int64s
from recsys.features.names import identity_hashes

_REMEMBERED = 4
"""Vocabularies kept: the live bundle's, the one before, and those of tests."""
_tables: dict[int, tuple[Vocabulary, Int64s, Int32s]] = {}


def rows_of_hashes(vocabulary: Vocabulary, hashes: Int64s) -> Int32s:
    """Give the row (1 … N) of each hash; 0 for an item the vocabulary lacks.

    Raises:
        InputError: when two items of the vocabulary have one hash.
    """
    _, sorted_hashes, rows = _tables.get(id(vocabulary)) or _index(vocabulary)
    if not len(sorted_hashes):
        return np.zeros(len(hashes), dtype=np.int32)
    place = np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)
    return np.where(sorted_hashes[place] == hashes, rows[place], 0).astype(np.int32)


def _index(vocabulary: Vocabulary) -> tuple[Vocabulary, Int64s, Int32s]:
    hashes = identity_hashes(vocabulary.item_ids)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(same):
        pair = [vocabulary.item_ids[order[same[0] + i]] for i in (0, 1)]
        raise InputError(f"items {pair[0]!r} and {pair[1]!r} have one hash; rename one of them")
    table = (vocabulary, hashes, (order + 1).astype(np.int32))
    if len(_tables) >= _REMEMBERED:
        _tables.pop(next(iter(_tables)))
    # Keyed by identity (comparing vocabularies is slow); holding it keeps its id from being reused.
    _tables[id(vocabulary)] = table
    return table
