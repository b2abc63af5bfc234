"""Conditions of a mapping, such as ``"is_click == 1"``, as Polars expressions.

One line each: ``COLUMN OPERATOR LITERAL``. Operators: ``==  !=  <  <=  >  >=``, ``in [..]``,
``not in [..]``, ``matches "regex"``, ``not matches "regex"``, ``is null``, ``is not null``.
Literals are written as in TOML (``"text"``, ``12``, ``0.5``, ``true``). A null never satisfies a
comparison. Column names that are not plain words stand in back-quotes.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.errors import MappingError

Literal = str | int | float | bool | list[str] | list[int] | list[float]

_PATTERN = re.compile(
    r"^\s*(?:`(?P<quoted>[^`]+)`|(?P<plain>[A-Za-z_][\w.]*))\s*"
    r"(?P<operator>==|!=|<=|>=|<|>|not\s+in\b|in\b|not\s+matches\b|matches\b"
    r"|is\s+not\s+null\b|is\s+null\b)"
    r"\s*(?P<literal>.*?)\s*$"
)
_WANTED = (
    'wanted `COLUMN OPERATOR LITERAL`, such as "is_click == 1", "country in [\\"FR\\", \\"DE\\"]" '
    'or "price is not null"'
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One parsed condition."""

    text: str
    """As written, for messages."""
    column: str
    operator: str
    literal: Literal | None

    def expression(self, dtype: pl.DataType) -> pl.Expr:
        """Give the condition as a boolean expression that is never null.

        Raises:
            MappingError: when the literal cannot be compared with a column of type ``dtype``.
        """
        column = pl.col(self.column)
        if self.operator == "is null":
            return column.is_null()
        if self.operator == "is not null":
            return column.is_not_null()
        if dtype in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
            dtype = pl.String()
        self._check_comparable(dtype)
        literal: Any = self.literal
        result: pl.Expr
        match self.operator:
            case "==":
                result = column == literal
            case "!=":
                result = column != literal
            case "<":
                result = column < literal
            case "<=":
                result = column <= literal
            case ">":
                result = column > literal
            case ">=":
                result = column >= literal
            case "in":
                result = column.is_in(literal)
            case "not in":
                result = ~column.is_in(literal)
            case "matches":
                result = column.str.contains(literal)
            case _:
                result = ~column.str.contains(literal)
        return result.fill_null(False)

    def _check_comparable(self, dtype: pl.DataType) -> None:
        values = self.literal if isinstance(self.literal, list) else [self.literal]
        for value in values:
            is_text = isinstance(value, str)
            is_flag = isinstance(value, bool)
            fits = (
                (dtype == pl.String and is_text)
                or (dtype == pl.Boolean and is_flag)
                or (dtype.is_numeric() and not is_text and not is_flag)
            )
            if not fits:
                raise MappingError(
                    f"condition {self.text!r}: column {self.column!r} is of type {dtype}, which "
                    f"cannot be compared with {value!r}; write the literal in the column's type"
                )


def parse(text: str) -> Condition:
    """Parse one condition.

    Raises:
        MappingError: when the text is no condition; says what was wanted.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise MappingError(f"condition {text!r} cannot be read; {_WANTED}")
    column = match["quoted"] or match["plain"]
    operator = re.sub(r"\s+", " ", match["operator"])
    written = match["literal"]
    if operator in ("is null", "is not null"):
        if written:
            raise MappingError(f"condition {text!r}: nothing may follow `{operator}`")
        return Condition(text=text, column=column, operator=operator, literal=None)
    try:
        literal = tomllib.loads(f"x = {written}")["x"]
    except tomllib.TOMLDecodeError:
        raise MappingError(
            f"condition {text!r}: {written!r} is no literal (text needs quotes); {_WANTED}"
        ) from None
    if isinstance(literal, list) != (operator in ("in", "not in")):
        raise MappingError(
            f"condition {text!r}: `in` and `not in` take a list, others one value; {_WANTED}"
        )
    if operator.endswith("matches"):
        _check_regex(text, literal)
    return Condition(text=text, column=column, operator=operator, literal=literal)


def _check_regex(text: str, literal: object) -> None:
    if not isinstance(literal, str):
        raise MappingError(f"condition {text!r}: `matches` takes a text")
    try:
        pl.select(pl.lit("").str.contains(literal))
    except pl.exceptions.ComputeError as error:
        raise MappingError(f"condition {text!r}: bad regular expression: {error}") from None
