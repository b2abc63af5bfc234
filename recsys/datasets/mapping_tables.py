"""What a mapping may say about files: which tables there are, their columns, how times are written.

Where a field of a section is a *column*, it is the name of a column of the section's table. In JSON
lines a name may be a path: ``user.id`` goes into an object, ``items.id`` gives the list of the
``id`` of each element.
"""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from recsys.datasets import conditions

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "datetime"]
"""Epoch numbers, ISO 8601 text, or a date/datetime column of the file."""
TypeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Column = Annotated[str, Field(min_length=1)]
Scalar = bool | int | float | str


def _condition(text: str) -> str:
    conditions.parse(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"unknown time zone {name!r}; wanted a name such as UTC or Europe/London"
        ) from None
    return name


def as_list(value: object) -> object:
    """Read one text as a list of it."""
    return [value] if isinstance(value, str) else value


def _as_time(value: object) -> object:
    return {"column": value} if isinstance(value, str) and value != "first_seen" else value


def as_column(value: object) -> object:
    """Read a column's name as a section with nothing else said."""
    return {"column": value} if isinstance(value, str) else value


def _as_names(value: object) -> object:
    return {name: name for name in value} if isinstance(value, list) else value


Where = Annotated[list[Annotated[str, AfterValidator(_condition)]], BeforeValidator(as_list)]
Zone = Annotated[str, AfterValidator(_zone)]
NamedColumns = Annotated[dict[str, Column], BeforeValidator(_as_names)]
"""``{name = "column"}``, or ``["column", ...]`` when the names are the columns' own."""


class Section(BaseModel):
    """A part of a mapping: what it does not know is an error, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Table(Section):
    """A file, or several with the same columns, in the data set's folder."""

    file: Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
    """Name or glob (``"logs/*.csv"``), or a list of them; matches are read in name order."""
    format: Literal["csv", "parquet", "jsonl"] | None = None
    """Unset: told from the suffix (``.csv .tsv .parquet .jsonl .ndjson``, each also ``.gz``)."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """CSV only."""
    null_values: list[str] = [""]
    """CSV only: texts that mean "nothing here"."""
    pairs: list[Column] = []
    """JSON lines only: columns holding ``[{"name": .., "value": ..}, ..]``, read as an object."""
    where: Where = []
    """Rows to keep: all conditions must hold."""
    constants: dict[str, Scalar] = {}
    """Extra columns with one value each."""


class TimeColumn(Section):
    """A time. Shorthand: the column's name alone, with the defaults of ``[time]``."""

    column: Column
    unit: TimeUnit | None = None
    format: str | None = None
    """``strptime`` format of a text column, instead of ``unit``."""
    zone: Zone | None = None
    """Zone of times written without one."""


class TimeDefaults(Section):
    """How times are written unless a section says otherwise."""

    unit: TimeUnit = "ms"
    zone: Zone = "UTC"


EventTime = Annotated[TimeColumn, BeforeValidator(_as_time)]
ProfileTime = Annotated[TimeColumn | Literal["first_seen"], BeforeValidator(_as_time)]
