from __future__ import annotations

import numpy as np
import polars as pl

from recsys.bundle.item_tags import ItemTags
from recsys.models.filter_tokens import ItemFilter
from recsys.ranking import filters


def test_unknown_and_repeated_exclusions_are_harmless() -> None:
    rows = filters.excluded_items({"a": 1, "b": 2}, ["b", "?", "b"])
    assert rows.tolist() == [2]
    assert rows.dtype == np.int32
    assert filters.excluded_items({"a": 1}, []).tolist() == []


TAGS = ItemTags.of(
    pl.Series(
        [
            ["category=books", "land=DE"],
            ["category=mugs", "land=DE", "land=AT"],
            ["category=tea"],
            ["category=books", "land=AT"],
            [],
        ]
    )
)
ROWS = np.array([5, 4, 3, 2, 1], dtype=np.int32)


def passing(**asked: list[str]) -> list[int]:
    return ROWS[filters.passing(ROWS, ItemFilter.of(**asked), TAGS)].tolist()


def test_wanted_categories_refuse_all_others_and_items_without_one() -> None:
    assert passing(categories=["books"]) == [4, 1]
    assert passing(categories=["books", "tea"]) == [4, 3, 1]


def test_unwanted_wins_over_wanted() -> None:
    assert passing(categories=["books", "tea"], exclude_categories=["tea"]) == [4, 1]


def test_what_no_item_has_is_of_no_item() -> None:
    assert passing(categories=["?"]) == []
    assert passing(exclude_categories=["?"]) == ROWS.tolist() == passing()


def test_tags_of_one_key_are_alternatives_and_of_two_both_wanted() -> None:
    assert passing(tags=["land=DE", "land=AT"]) == [4, 2, 1]
    assert passing(tags=["land=DE", "category=mugs"]) == [2]
    assert passing(tags=["land=DE"], exclude_tags=["land=AT"]) == [1]


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
