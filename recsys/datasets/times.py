"""Times as they stand in tables, as epoch milliseconds UTC."""

from __future__ import annotations

import polars as pl

from recsys.datasets.mapping_tables import TimeColumn, TimeDefaults
from recsys.errors import MappingError

_PER_MS = {"us": 1_000, "ns": 1_000_000}
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"
_NAIVE_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def epoch_ms(time: TimeColumn, defaults: TimeDefaults, dtype: pl.DataType) -> pl.Expr:
    """Give the expression that turns ``time.column`` into epoch ms (Int64).

    A value that cannot be read, or a wall-clock time that the zone skips in spring, becomes null
    and is reported as a bad row. A wall-clock time that exists twice in autumn is the first one.

    Raises:
        MappingError: when a column of type ``dtype`` cannot hold such times.
    """
    column = pl.col(time.column)
    zone = time.zone or defaults.zone
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return _from_datetime(column, dtype, zone)
    if time.format is not None:
        _want(time, dtype, dtype == pl.String, f"text (format {time.format!r})")
        return _from_format(column, time.format, zone)
    unit = time.unit or defaults.unit
    if unit == "iso":
        _want(time, dtype, dtype == pl.String, "text (unit iso)")
        return _from_iso(column, zone)
    if unit == "datetime":
        _want(time, dtype, False, "a date or datetime column (unit datetime)")
    _want(time, dtype, dtype.is_numeric() or dtype == pl.String, f"numbers (unit {unit})")
    if unit == "s":
        # Seconds may carry a fraction.
        seconds = column.cast(pl.Float64, strict=False)
        finite = pl.when(seconds.is_finite() & (seconds.abs() < 1e12)).then(seconds)
        return (finite * 1000).round().cast(pl.Int64)
    if dtype.is_float():
        column = pl.when(column.is_finite() & (column.abs() < 9e18)).then(column).round()
    whole = column.cast(pl.Int64, strict=False)
    return whole if unit == "ms" else whole // _PER_MS[unit]


def _want(time: TimeColumn, dtype: pl.DataType, fits: bool, wanted: str) -> None:
    if not fits:
        raise MappingError(
            f"time column {time.column!r}: wanted {wanted}, found type {dtype}; "
            "set `unit` (s, ms, us, ns, iso, datetime) or `format` of this time, or [time].unit"
        )


def _from_datetime(column: pl.Expr, dtype: pl.DataType, zone: str) -> pl.Expr:
    aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    time = column.cast(
        pl.Datetime("ms", dtype.time_zone if isinstance(dtype, pl.Datetime) else None)
    )
    return (time if aware else _localise(time, zone)).dt.epoch("ms")


def _localise(naive: pl.Expr, zone: str) -> pl.Expr:
    return naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")


def _from_format(column: pl.Expr, form: str, zone: str) -> pl.Expr:
    if "%z" in form or "%:z" in form or "%+" in form:
        return column.str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False).dt.epoch(
            "ms"
        )
    has_clock = any(code in form for code in ("%H", "%I", "%T", "%s", "%R"))
    if has_clock:
        naive = column.str.to_datetime(form, time_unit="ms", strict=False)
    else:
        naive = column.str.to_date(form, strict=False).cast(pl.Datetime("ms"))
    return _localise(naive, zone).dt.epoch("ms")


def _from_iso(column: pl.Expr, zone: str) -> pl.Expr:
    text = column.str.strip_chars().str.replace(r"^(\S{10})[ t]", "${1}T")
    has_clock = text.str.contains("T", literal=True)
    has_offset = has_clock & text.str.contains(_OFFSET)
    aware = (
        pl.when(has_offset).then(text.str.replace(r"[Zz]$", "+00:00"))
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="ms", time_zone="UTC", strict=False)
        .dt.epoch("ms")
    )  # fmt: skip
    naive_text = pl.when(~has_offset).then(text)
    naive = pl.coalesce(
        naive_text.str.to_datetime(_NAIVE_FORMATS[0], time_unit="ms", strict=False),
        naive_text.str.to_datetime(_NAIVE_FORMATS[1], time_unit="ms", strict=False),
        naive_text.str.to_date(_NAIVE_FORMATS[2], strict=False).cast(pl.Datetime("ms")),
    )
    return pl.coalesce(aware, _localise(naive, zone).dt.epoch("ms"))
