from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from recsys.datasets.mapping_tables import TimeColumn, TimeDefaults
from recsys.datasets.times import epoch_ms
from recsys.errors import MappingError

NOON = 1_320_840_000_000  # 2011-11-09T12:00:00Z


def read(values: object, **time: str) -> list[int | None]:
    frame = pl.DataFrame({"t": values})
    column = TimeColumn.model_validate({"column": "t", **time})
    result = frame.select(epoch_ms(column, TimeDefaults(), frame.schema["t"]))
    return result.to_series().to_list()


def test_numbers_in_every_unit_are_the_same_moment() -> None:
    assert read([NOON]) == [NOON]
    assert read([NOON // 1000], unit="s") == [NOON]
    assert read([NOON / 1000 + 0.25], unit="s") == [NOON + 250]
    assert read([NOON * 1000], unit="us") == [NOON]
    assert read([NOON * 1_000_000], unit="ns") == [NOON]
    assert read([str(NOON)]) == [NOON]


def test_iso_text_with_and_without_zone() -> None:
    texts = [
        "2011-11-09T12:00:00Z",
        "2011-11-09 13:00:00.000+01:00",
        "2011-11-09 12:00",
        "2011-11-09",
    ]
    assert read(texts, unit="iso") == [NOON, NOON, NOON, NOON - 12 * 3_600_000]
    assert read(["2011-11-09T13:00:00"], unit="iso", zone="Europe/Paris") == [NOON]


def test_clock_changes() -> None:
    twice = read(["2011-10-30 01:30:00"], unit="iso", zone="Europe/London")
    assert twice == [int(datetime(2011, 10, 30, 0, 30, tzinfo=UTC).timestamp()) * 1000]
    assert read(["2011-03-27 01:30:00"], unit="iso", zone="Europe/London") == [None]


def test_formats_and_date_columns() -> None:
    assert read(["09/11/2011"], format="%d/%m/%Y") == [NOON - 12 * 3_600_000]
    assert read(["09/11/2011 12:00"], format="%d/%m/%Y %H:%M") == [NOON]
    assert read(["09/11/2011 14:00 +0200"], format="%d/%m/%Y %H:%M %z") == [NOON]
    assert read([date(2011, 11, 9)]) == [NOON - 12 * 3_600_000]
    assert read([datetime(2011, 11, 9, 13)], zone="Europe/Paris") == [NOON]
    assert read([datetime(2011, 11, 9, 12, tzinfo=UTC)], zone="Europe/Paris") == [NOON]


def test_unreadable_values_become_null() -> None:
    assert read(["soon", None, ""]) == [None, None, None]
    assert read(["soon", None, ""], unit="iso") == [None, None, None]
    assert read([float("nan"), float("inf"), None]) == [None, None, None]
    assert read([float("nan"), 1e300], unit="s") == [None, None]


def test_a_column_that_holds_no_times_is_refused() -> None:
    with pytest.raises(MappingError, match="found type Boolean"):
        read([True])
    with pytest.raises(MappingError, match="unit iso"):
        read([5], unit="iso")
    with pytest.raises(MappingError, match="unit datetime"):
        read([5], unit="datetime")
