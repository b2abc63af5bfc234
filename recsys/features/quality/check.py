"""Expectations checked over all entities at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from recsys.features.plan import Plan
from recsys.features.quality.expectations import Expectation
from recsys.features.quality.moments import age
from recsys.features.quality.snapshot import ViewValues


class Finding(NamedTuple):
    """What came out of one rule."""

    view: str
    feature: str
    """Empty for a rule of the whole view."""
    rule: str
    wanted: str
    found: str
    num_values: int
    num_violations: int
    """Values that break a bound, or lie beyond a share; 1 for a rule of the whole."""
    first_offender: str
    """``entity = value``; empty when there is none."""

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return self.num_violations == 0


def check(plan: Plan, snapshot: Sequence[ViewValues], moment_ms: int) -> list[Finding]:
    """Judge every rule of the plan, in the order of its declaration.

    A view without entities breaks nothing but its ``max_age``.
    """
    by_name = {values.view.name: values for values in snapshot}
    findings: list[Finding] = []
    for expectation in plan.expectations:
        values = by_name.get(expectation.view)
        if expectation.feature:
            if values is not None:
                findings += _feature(values, expectation)
        else:
            findings.append(_age(values, expectation, moment_ms))
    return findings


def numbers_of(column: pl.Series) -> pl.Series:
    """Give a feature's values as numbers, Float64, nulls kept: of a list or a string, its length.

    NaN counts as null, as in Feast.
    """
    if column.dtype == pl.String:
        return column.str.len_chars().cast(pl.Float64)
    if column.dtype == pl.Binary:
        return column.bin.size().cast(pl.Float64)
    if isinstance(column.dtype, pl.List):
        return column.list.len().cast(pl.Float64)
    return column.cast(pl.Float64).fill_nan(None)


def cardinality(column: pl.Series) -> int:
    """Give the number of distinct values; of lists, of their elements. Nulls are none."""
    flat = column.explode() if isinstance(column.dtype, pl.List) else column
    return flat.drop_nulls().n_unique()


def _feature(values: ViewValues, expected: Expectation) -> Iterator[Finding]:
    column = values.values[expected.feature]
    numbers = numbers_of(column)
    total = len(column)

    def finding(rule: str, wanted: str, found: str, num: int, offender: int | None) -> Finding:
        at = ""
        if num and offender is not None:
            at = f"{values.entity(offender)} = {_short(column[offender])}"
        return Finding(
            expected.view, expected.feature, rule, wanted, found, total, num, at
        )  # fmt: skip

    if expected.min is not None:
        # Against float32 values a bound is a float32, as in the stream.
        low = _bound(column, expected.min)
        broken = (numbers < low).fill_null(False)
        yield finding(
            "min", f">= {expected.min:g}", _number(numbers.min()), int(broken.sum()), _first(broken)
        )
    if expected.max is not None:
        high = _bound(column, expected.max)
        broken = (numbers > high).fill_null(False)
        yield finding(
            "max", f"<= {expected.max:g}", _number(numbers.max()), int(broken.sum()), _first(broken)
        )
    shares = (
        ("max_null_share", expected.max_null_share, numbers.is_null()),
        ("max_zero_share", expected.max_zero_share, (numbers == 0).fill_null(False)),
    )
    for rule, allowed, mask in shares:
        if allowed is not None:
            count = int(mask.sum())
            share = count / total if total else 0.0
            num = count if share > allowed else 0
            yield finding(rule, f"<= {allowed:g}", f"{share:.4g}", num, _first(mask))
    if expected.max_cardinality is not None:
        distinct = cardinality(column)
        over = int(distinct > expected.max_cardinality)
        wanted = f"<= {expected.max_cardinality}"
        yield finding("max_cardinality", wanted, str(distinct), over, None)


def _age(values: ViewValues | None, expected: Expectation, moment_ms: int) -> Finding:
    allowed = expected.max_age_ms or 0
    newest = None if values is None else values.newest_event_ms
    too_old = newest is None or moment_ms - newest > allowed
    found = "no event" if newest is None else age(moment_ms - newest)
    total = 0 if values is None else len(values)
    return Finding(
        expected.view, "", "max_age", f"<= {age(allowed)}", found, total, int(too_old), ""
    )


def _bound(column: pl.Series, bound: float) -> float:
    if column.dtype == pl.Float32:
        return float(pl.Series([bound], dtype=pl.Float32)[0])
    return bound


def _first(mask: pl.Series) -> int | None:
    return mask.arg_max() if mask.any() else None


def _number(value: object) -> str:
    return "none" if value is None else f"{value:.6g}"


def _short(value: object) -> str:
    text = str(value.to_list()) if isinstance(value, pl.Series) else repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
