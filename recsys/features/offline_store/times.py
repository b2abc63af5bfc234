"""Times of any column as int64 in one unit, UTC, with limits that never round into the future.

Arrow and Parquet hold a time with a zone as UTC and one without as it was written; Feast takes the
latter as UTC too. So the integers mean the same, and neither the column's zone nor the machine's
matters.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.errors import InputError
from recsys.features.offline_store.asof import NO_TIME
from recsys.features.offline_store.label_order import Int64s

Unit = Literal["us", "ns"]

_NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}

_LOWEST, _HIGHEST = np.iinfo(np.int64).min + 1, np.iinfo(np.int64).max


def unit_of(types: list[pa.DataType]) -> Unit:
    """The unit that holds all of these columns' times exactly: nanoseconds if one needs them."""
    return "ns" if any(pa.types.is_timestamp(t) and t.unit == "ns" for t in types) else "us"


def times_of(column: pa.ChunkedArray, unit: Unit, name: str) -> Int64s:
    """A column's times (N,), ``NO_TIME`` for null.

    Raises:
        InputError: the column holds no times.
    """
    kind = column.type
    if pa.types.is_date(kind):
        column = (
            column.cast(pa.timestamp("ms"))
            if pa.types.is_date64(kind)
            else column.cast(pa.timestamp("s"))
        )
    elif not pa.types.is_timestamp(kind):
        raise InputError(
            f'column "{name}": wanted timestamps or dates, found {kind}; write it as a timestamp',
            field=name,
        )
    whole = column.cast(pa.int64())
    absent = whole.is_null() if whole.null_count else None
    if absent is not None:
        whole = whole.fill_null(0)
    values = np.asarray(whole.to_numpy(), dtype=np.int64)
    if column.type.unit != unit:
        values = _in_unit(values, column.type.unit, unit, up=False)
    if absent is not None:
        values = np.where(absent.to_numpy(), NO_TIME, values)
    return values


def moments_of(times: pd.Series) -> pd.Series:
    """The labels' moments as a UTC column, whatever they came as (Feast's rule: naive is UTC)."""
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        aware: pd.Series = times.dt.tz_convert("UTC")
        return aware
    try:
        return pd.to_datetime(times, utc=True)
    except ValueError:
        # Texts and times of several shapes in one column.
        return pd.to_datetime(times, utc=True, format="mixed")


def limits(
    moments: pa.ChunkedArray, ttl: timedelta | None, unit: Unit
) -> tuple[Int64s, Int64s | None, np.ndarray]:
    """What may count for each label, in the unit of the rows.

    A row counts from ``event + ttl >= moment`` (inclusive, as in Feast's DuckDB store) to
    ``event <= moment``. Where the rows' unit is coarser than the moments', the upper limit is
    rounded down and the lower up, so that no row counts that would not count exactly.

    Returns:
        latest (L,), earliest (L,) or None without a TTL, and whether the label has a moment (L,).
    """
    fine: Unit = "ns" if moments.type.unit == "ns" else "us"
    exact = times_of(moments, fine, "event_timestamp")
    known = exact != NO_TIME
    latest = _in_unit(exact, fine, unit, up=False)
    # No TTL and a TTL of zero both mean: for ever (Feast).
    if not ttl:
        return latest, None, known
    span = ttl // timedelta(microseconds=1) * (1000 if fine == "ns" else 1)
    if span >= _HIGHEST:
        return latest, None, known
    floor = int(_LOWEST) + span
    earliest = np.where(exact < floor, _LOWEST, np.maximum(exact, floor) - span)
    return latest, _in_unit(earliest, fine, unit, up=True), known


def in_unit(moment: datetime, unit: Unit) -> int:
    """One moment as an integer; a naive one is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    micros = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    whole = micros * 1000 if unit == "ns" else micros
    return min(max(whole, int(_LOWEST)), int(_HIGHEST))


def _in_unit(values: Int64s, have: str, want: Unit, *, up: bool) -> Int64s:
    """Convert; times beyond what the finer unit holds become its ends, which compare alike."""
    have_ns, want_ns = _NANOSECONDS[have], _NANOSECONDS[want]
    if have_ns == want_ns:
        return values
    if have_ns > want_ns:
        factor = have_ns // want_ns
        return np.clip(values, _LOWEST // factor + 1, _HIGHEST // factor) * factor
    divisor = want_ns // have_ns
    return -(-values // divisor) if up else values // divisor
