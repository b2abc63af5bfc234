"""What must not be shown: given exclusions, what filters refuse, withdrawn items, seen ones.

All of it goes to the model server, which leaves it out *during* its search, so that asking for
``k`` gives ``k`` whenever ``k`` exist. ``keep`` and ``passing`` are the same rules for lists that
were made without it.
Axes: ``N`` items (row 0 is padding), ``C`` candidates, ``X`` excluded rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from recsys.bundle.item_tags import ItemTags
from recsys.data.vocabulary import PADDING_INDEX
from recsys.features.batch import Bools, Int32s
from recsys.models.filter_tokens import ItemFilter

NOTHING: Int32s = np.empty(0, dtype=np.int32)
"""No rows."""


def excluded_items(index_of: Mapping[str, int], item_ids: Collection[str]) -> Int32s:
    """Give the rows of the items a request does not want; unknown items cannot come back anyway."""
    if not item_ids:
        return NOTHING
    rows = {index_of.get(item_id, PADDING_INDEX) for item_id in item_ids}
    rows.discard(PADDING_INDEX)
    return np.fromiter(sorted(rows), dtype=np.int32, count=len(rows))


def passing(candidate_index: Int32s, item_filter: ItemFilter, tags: ItemTags) -> Bools:
    """Say which of ``[C]`` rows a filter lets through."""
    kept: Bools = np.ones(len(candidate_index), dtype=np.bool_)
    for clause in item_filter.clauses:
        kept &= np.logical_or.reduce([tags.have(candidate_index, token) for token in clause])
    for token in item_filter.unwanted:
        kept &= ~tags.have(candidate_index, token)
    return kept


def union(*rows: Int32s) -> Int32s:
    """Give the rows that stand in any of the lists, each once, in order."""
    filled = [one for one in rows if len(one)]
    if len(filled) <= 1:
        return filled[0] if filled else NOTHING
    return np.unique(np.concatenate(filled))


def keep(candidate_index: Int32s, *, available: Bools, excluded: Sequence[Int32s]) -> Bools:
    """Say which candidates may be shown.

    Args:
        candidate_index: ``[C]`` rows; padding is never kept.
        available: ``[N + 1]`` whether each row may be shown at all.
        excluded: Lists of rows that may not: given, already seen.
    """
    kept: Bools = available[candidate_index] & (candidate_index != PADDING_INDEX)
    for rows in excluded:
        if len(rows):
            kept &= ~np.isin(candidate_index, rows)
    return kept
