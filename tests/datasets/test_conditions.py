from __future__ import annotations

import polars as pl
import pytest

from recsys.datasets.conditions import parse
from recsys.errors import MappingError

ROWS = pl.DataFrame(
    {"n": [1, 2, None, 4], "s": ["a", "b", None, "ab"], "f": [True, False, None, True]}
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("n == 1", [0]),
        ("n != 1", [1, 3]),
        ("n>=2", [1, 3]),
        ("n < 2.5", [0, 1]),
        ("n in [1, 4]", [0, 3]),
        ("n not in [1, 4]", [1]),
        ("n is null", [2]),
        ("n is not null", [0, 1, 3]),
        ('s == "a"', [0]),
        ('s matches "^a"', [0, 3]),
        ('s not  matches "^a"', [1]),
        ("f == true", [0, 3]),
        ("`n` > 1", [1, 3]),
    ],
)
def test_condition_keeps(text: str, kept: list[int]) -> None:
    condition = parse(text)
    rows = ROWS.with_row_index().filter(condition.expression(ROWS.schema[condition.column]))
    assert rows["index"].to_list() == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "n",
        "n = 1",
        "n == x",
        "n in 3",
        "n == [1]",
        "n is null 3",
        's matches "("',
        "s matches 3",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(MappingError):
        parse(text)


@pytest.mark.parametrize("text", ['n == "1"', "s > 3", "f == 1", 'n in ["a"]'])
def test_comparing_with_the_wrong_type_is_refused(text: str) -> None:
    condition = parse(text)
    with pytest.raises(MappingError, match="cannot be compared"):
        condition.expression(ROWS.schema[condition.column])
