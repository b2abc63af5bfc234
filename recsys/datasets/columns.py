"""Columns of a table as the types of an event: identifiers, texts, attribute values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from recsys.errors import MappingError


def required_type(column: str, schema: pl.Schema, fits: bool, wanted: str) -> None:
    """Raise MappingError when the column's type does not fit."""
    if not fits:
        raise MappingError(f"column {column!r}: wanted {wanted}, found type {schema[column]}")


def as_identifier(column: str, schema: pl.Schema) -> pl.Expr:
    """Give an id as text. Floats that are whole numbers (a CSV's ``17850.0``) lose the ``.0``."""
    dtype = schema[column]
    required_type(
        column, schema,
        not (dtype.is_nested() or dtype.is_temporal() or dtype == pl.Boolean), "an id column",
    )  # fmt: skip
    value = pl.col(column)
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        return (
            pl.when(whole.cast(dtype) == value).then(whole.cast(pl.String))
            .otherwise(value.fill_nan(None).cast(pl.String))
        )  # fmt: skip
    return value.cast(pl.String)


def as_identifier_list(column: str, schema: pl.Schema) -> pl.Expr:
    """Give a list column as lists of ids."""
    required_type(column, schema, isinstance(schema[column], pl.List), "a list column of ids")
    return pl.col(column).cast(pl.List(pl.String))


def as_text(columns: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """Join columns by ``". "``, lists by ``", "``; what is null is left out, at worst ``""``."""
    if not columns:
        return pl.lit("")
    parts = []
    for name in columns:
        column = pl.col(name)
        if isinstance(schema[name], pl.List):
            column = column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
        part = column.cast(pl.String).str.strip_chars()
        parts.append(pl.when(part != "").then(part))
    return pl.concat_str(parts, separator=". ", ignore_nulls=True).fill_null("")


def attribute_columns(
    prefix: str, names: Mapping[str, str], schema: pl.Schema, *, text_only: bool = False
) -> dict[str, pl.Expr]:
    """Give ``{"prefix.name": value}``: whole numbers, floats, booleans, texts, lists of texts.

    Times become ISO text. NaN becomes null, which means that the event leaves the key out.
    ``text_only``: everything becomes text, as an event's context wants it.
    """
    result = {}
    for name, column in names.items():
        if not 1 <= len(name) <= 64:
            raise MappingError(f"{prefix} name {name!r} is not 1 to 64 characters")
        dtype = schema[column]
        value = pl.col(column)
        if isinstance(dtype, pl.List):
            required_type(column, schema, not text_only, "one value, not a list")
            value = value.cast(pl.List(pl.String)).list.drop_nulls()
        elif dtype.is_float():
            value = value.fill_nan(None).cast(pl.Float64)
        elif isinstance(dtype, pl.Decimal):
            value = value.cast(pl.Float64)
        elif not (dtype.is_integer() or dtype == pl.Boolean):
            required_type(column, schema, not dtype.is_nested(), "plain values or lists of them")
            value = value.cast(pl.String)
        if text_only:
            value = value.cast(pl.String)
        result[f"{prefix}.{name}"] = value
    if len(result) > (16 if text_only else 64):
        raise MappingError(
            f"{prefix}: an event holds {16 if text_only else 64}, found {len(result)}"
        )
    return result
