"""What must not be shown: given exclusions, categories not asked for, withdrawn items, seen ones.

Filters become rows for the model server to leave out *during* its search, so that asking for ``k``
gives ``k`` whenever ``k`` exist. ``keep`` is the same rule for lists that were made without it.
Axes: ``N`` items (row 0 is padding), ``C`` candidates, ``X`` excluded rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recsys.data.vocabulary import PADDING_INDEX
from recsys.features.batch import Bools, Int32s

NOTHING: Int32s = np.empty(0, dtype=np.int32)
"""No rows."""


def excluded_items(index_of: Mapping[str, int], item_ids: Iterable[str]) -> Int32s:
    """Give the rows of the items a request does not want; unknown items cannot come back anyway."""
    rows = {index_of.get(item_id, PADDING_INDEX) for item_id in item_ids}
    rows.discard(PADDING_INDEX)
    return np.fromiter(sorted(rows), dtype=np.int32, count=len(rows))


def excluded_by_category(
    category_index: Int32s,
    index_of: Mapping[str, int],
    *,
    wanted: Sequence[str],
    unwanted: Sequence[str],
) -> Int32s:
    """Give the rows outside the categories a request asks for.

    Args:
        category_index: ``[N + 1]`` category of each row, -1 for none.
        index_of: Number of each category; an unknown category has no items.
        wanted: Only these may be shown; empty allows all.
        unwanted: These may not be shown, whatever ``wanted`` says.
    """
    if not wanted and not unwanted:
        return NOTHING
    excluded = np.isin(category_index, [index_of[name] for name in unwanted if name in index_of])
    if wanted:
        numbers = [index_of[name] for name in wanted if name in index_of]
        excluded |= ~np.isin(category_index, numbers)
    excluded[PADDING_INDEX] = False
    return np.flatnonzero(excluded).astype(np.int32)


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
        excluded: Lists of rows that may not: given, by category, already seen.
    """
    kept: Bools = available[candidate_index] & (candidate_index != PADDING_INDEX)
    for rows in excluded:
        if len(rows):
            kept &= ~np.isin(candidate_index, rows)
    return kept
