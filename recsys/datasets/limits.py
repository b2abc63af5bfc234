"""The event schema's limits, for whole columns: which rows could not become an event, and why.

``recsys.events.schema`` decodes one event at a time; these expressions say the same of a million
rows at once. A test holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from recsys.events.schema import MIN_EVENT_TIME_MS

MAX_IDENTIFIER = 128
MAX_TITLE = 512
MAX_TEXT = 8192
MAX_CATEGORY = 64
MAX_ATTRIBUTE_TEXT = 256
MAX_LIST_ATTRIBUTE = 64
MAX_LIST = 1000
MAX_POSITION = 1_000_000
MAX_FINITE = 1e12
_CONTROL = r"[\x00-\x1f\x7f]"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A reason to refuse a row."""

    reason: str
    broken: pl.Expr
    """True, false or null; null is "not broken"."""
    shown: str
    """Column whose value the report shows."""
    is_null: bool = False
    """The reason is that something required is missing."""


def identifier(column: str, name: str) -> list[Rule]:
    """Give the rules of a required identifier."""
    value = pl.col(column)
    length = value.str.len_chars()
    return [
        Rule(reason=f"{name} is missing", broken=value.is_null(), shown=column, is_null=True),
        Rule(
            reason=f"{name} is not 1 to {MAX_IDENTIFIER} characters",
            broken=(length < 1) | (length > MAX_IDENTIFIER),
            shown=column,
        ),
        Rule(
            reason=f"{name} has control characters",
            broken=value.str.contains(_CONTROL),
            shown=column,
        ),
    ]


def event_time(column: str) -> list[Rule]:
    """Give the rules of the event time."""
    value = pl.col(column)
    return [
        Rule(
            reason="time is missing or unreadable",
            broken=value.is_null(),
            shown=column,
            is_null=True,
        ),
        Rule(
            reason="time is before 2000 (is the unit right?)",
            broken=value < MIN_EVENT_TIME_MS,
            shown=column,
        ),
    ]


def number(column: str, name: str, *, low: float, high: float, required: bool) -> list[Rule]:
    """Give the rules of a number in ``[low, high]``; NaN and infinities break them."""
    value = pl.col(column)
    rules = [
        Rule(
            reason=f"{name} is not between {low:g} and {high:g}",
            broken=~value.is_between(low, high) | value.is_nan(),
            shown=column,
        )
    ]
    if required:
        rules.insert(
            0, Rule(reason=f"{name} is missing", broken=value.is_null(), shown=column, is_null=True)
        )
    return rules


def text(column: str, name: str, *, most: int) -> list[Rule]:
    """Give the rule of a text's length."""
    broken = pl.col(column).str.len_chars() > most
    return [Rule(reason=f"{name} is longer than {most} characters", broken=broken, shown=column)]


def attribute(column: str, name: str, dtype: pl.DataType) -> list[Rule]:
    """Give the rules of an attribute or context value of type ``dtype`` (null means: left out)."""
    value = pl.col(column)
    if dtype == pl.String:
        return text(column, name, most=MAX_ATTRIBUTE_TEXT)
    if isinstance(dtype, pl.List):
        too_long = value.list.eval(pl.element().str.len_chars()).list.max() > MAX_ATTRIBUTE_TEXT
        return [
            Rule(
                reason=f"{name} has more than {MAX_LIST_ATTRIBUTE} entries or one that is too long",
                broken=(value.list.len() > MAX_LIST_ATTRIBUTE) | too_long,
                shown=column,
            )
        ]
    if dtype.is_float():
        return number(column, name, low=-MAX_FINITE, high=MAX_FINITE, required=False)
    return []
