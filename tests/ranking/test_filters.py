from __future__ import annotations

import numpy as np

from recsys.ranking import filters

CATEGORY = np.array([-1, 0, 1, 2, 0, -1], dtype=np.int32)
INDEX_OF = {"books": 0, "mugs": 1, "tea": 2}


def test_unknown_and_repeated_exclusions_are_harmless() -> None:
    rows = filters.excluded_items({"a": 1, "b": 2}, ["b", "?", "b"])
    assert rows.tolist() == [2]
    assert rows.dtype == np.int32
    assert filters.excluded_items({"a": 1}, []).tolist() == []


def test_wanted_categories_exclude_all_others_and_items_without_one() -> None:
    rows = filters.excluded_by_category(CATEGORY, INDEX_OF, wanted=["books"], unwanted=[])
    assert rows.tolist() == [2, 3, 5]


def test_unwanted_wins_over_wanted() -> None:
    rows = filters.excluded_by_category(
        CATEGORY, INDEX_OF, wanted=["books", "tea"], unwanted=["tea"]
    )
    assert rows.tolist() == [2, 3, 5]


def test_unknown_category_has_no_items() -> None:
    wanted = filters.excluded_by_category(CATEGORY, INDEX_OF, wanted=["?"], unwanted=[])
    assert wanted.tolist() == [1, 2, 3, 4, 5]
    unwanted = filters.excluded_by_category(CATEGORY, INDEX_OF, wanted=[], unwanted=["?"])
    assert unwanted.tolist() == []


def test_keep_leaves_out_padding_withdrawn_and_excluded() -> None:
    available = np.array([False, True, True, False, True, True])
    candidates = np.array([5, 4, 3, 2, 1, 0], dtype=np.int32)
    excluded = (np.array([4], np.int32), filters.NOTHING, np.array([2, 9], np.int32))
    kept = filters.keep(candidates, available=available, excluded=excluded)
    assert candidates[kept].tolist() == [5, 1]


def test_union_is_distinct_and_cheap_for_one_list() -> None:
    one = np.array([3, 1], dtype=np.int32)
    assert filters.union(one, filters.NOTHING) is one
    assert filters.union(one, np.array([1, 2], np.int32)).tolist() == [1, 2, 3]
    assert filters.union().tolist() == []
