"""Item and user events of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from recsys.datasets import limits
from recsys.datasets.columns import as_identifier, as_text, attribute_columns, required_type
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_events import CategoryRule, Items, Users
from recsys.datasets.mapping_tables import TimeColumn
from recsys.datasets.readers import FILE_COLUMN, ROW_COLUMN
from recsys.datasets.sources import Sources
from recsys.datasets.times import epoch_ms

_ITEM_SCHEMA = {
    "event_id": pl.String, "event_time_ms": pl.Int64, "item_id": pl.String, "title": pl.String,
    "text": pl.String, "category": pl.String, "price": pl.Float64, "born_ms": pl.Int64,
    "available": pl.Boolean, "source": pl.String, "file": pl.UInt32, "row": pl.UInt32,
    "__first_seen": pl.Boolean, "__born_first_seen": pl.Boolean,
}  # fmt: skip
_USER_SCHEMA = {
    "event_id": pl.String, "event_time_ms": pl.Int64, "user_id": pl.String,
    "source": pl.String, "file": pl.UInt32, "row": pl.UInt32, "__first_seen": pl.Boolean,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FirstSeen:
    """When each item and user first appears in behaviour: ``id``, ``seen_ms``."""

    items: pl.DataFrame
    users: pl.DataFrame


def first_seen(impressions: pl.DataFrame, *acts: pl.DataFrame) -> FirstSeen:
    """Give the first time of every item and user in the behaviour frames."""
    shown = impressions.select("event_time_ms", pl.col("items").alias("item_id")).explode("item_id")
    items = pl.concat([shown, *(f.select("event_time_ms", "item_id") for f in acts)])
    users = pl.concat([f.select("event_time_ms", "user_id") for f in (impressions, *acts)])
    return FirstSeen(
        items=items.group_by(id="item_id").agg(seen_ms=pl.col("event_time_ms").min()),
        users=users.group_by(id="user_id").agg(seen_ms=pl.col("event_time_ms").min()),
    )


def with_times(frame: pl.DataFrame, key: str, seen: pl.DataFrame, earliest_ms: int) -> pl.DataFrame:
    """Fill event times (and births) that the table does not give.

    ``first_seen`` rows get the time of their first appearance; rows that have no time, or never
    appear, get ``earliest_ms``.
    """
    frame = frame.join(seen, left_on=key, right_on="id", how="left", maintain_order="left")
    when_seen = pl.when(pl.col("__first_seen")).then(pl.col("seen_ms"))
    filled = [
        pl.coalesce("event_time_ms", when_seen, pl.lit(earliest_ms, pl.Int64)).alias(
            "event_time_ms"
        )
    ]
    if "born_ms" in frame.columns:
        when_born = pl.when(pl.col("__born_first_seen")).then(pl.col("seen_ms"))
        filled.append(pl.coalesce("born_ms", when_born).alias("born_ms"))
    return frame.with_columns(filled).drop(
        "seen_ms", "__first_seen", "__born_first_seen", strict=False
    )


def items(mapping: DatasetMapping, sources: Sources) -> pl.DataFrame:
    """Give the item events; times are null where the table has none."""
    section = mapping.items
    if section is None:
        return pl.DataFrame(schema=_ITEM_SCHEMA)
    rows = _distinct(sources.rows(section, "items"), section)
    schema = rows.schema
    columns: dict[str, pl.Expr] = {
        "event_id": pl.lit(None, pl.String),
        "event_time_ms": _time(section.time, mapping, schema),
        "item_id": as_identifier(section.id, schema),
        "title": as_text([section.title] if section.title else [], schema),
        "text": as_text(section.text, schema),
        "category": _category(section.category, rows),
        "price": _price(section.price, schema),
        "born_ms": _time(section.born, mapping, schema),
        "available": _available(section.available, schema),
        "source": pl.lit("items"),
        "file": pl.col(FILE_COLUMN),
        "row": pl.col(ROW_COLUMN),
        "__first_seen": pl.lit(section.time == "first_seen"),
        "__born_first_seen": pl.lit(section.born == "first_seen"),
    }
    attributes = attribute_columns("attributes", section.attributes, schema)
    frame = rows.with_columns(**columns).with_columns(**attributes)
    if section.truncate:
        frame = _truncated(frame, [*attributes])
    rules = [
        *limits.identifier("item_id", "item id"),
        *_time_rules(section),
        *limits.text("title", "title", most=limits.MAX_TITLE),
        *limits.text("text", "text", most=limits.MAX_TEXT),
        *limits.text("category", "category", most=limits.MAX_CATEGORY),
        *limits.number("price", "price", low=0.0, high=limits.MAX_FINITE, required=False),
        *(rule for name in attributes for rule in limits.attribute(name, name, frame.schema[name])),
    ]
    good = sources.refuse(frame, rules, kind="item", source="items", table=section.table)
    return good.select(*columns, *attributes)


def users(mapping: DatasetMapping, sources: Sources) -> pl.DataFrame:
    """Give the user events; times are null where the table has none."""
    section = mapping.users
    if section is None:
        return pl.DataFrame(schema=_USER_SCHEMA)
    rows = _distinct(sources.rows(section, "users"), section)
    columns: dict[str, pl.Expr] = {
        "event_id": pl.lit(None, pl.String),
        "event_time_ms": _time(section.time, mapping, rows.schema),
        "user_id": as_identifier(section.id, rows.schema),
        "source": pl.lit("users"),
        "file": pl.col(FILE_COLUMN),
        "row": pl.col(ROW_COLUMN),
        "__first_seen": pl.lit(section.time == "first_seen"),
    }
    attributes = attribute_columns("attributes", section.attributes, rows.schema)
    frame = rows.with_columns(**columns).with_columns(**attributes)
    if section.truncate:
        frame = _truncated(frame, [*attributes])
    rules = [
        *limits.identifier("user_id", "user id"),
        *_time_rules(section),
        *(rule for name in attributes for rule in limits.attribute(name, name, frame.schema[name])),
    ]
    good = sources.refuse(frame, rules, kind="user", source="users", table=section.table)
    return good.select(*columns, *attributes)


def _distinct(rows: pl.DataFrame, section: Items | Users) -> pl.DataFrame:
    if section.distinct is None:
        return rows
    return rows.unique(subset=[section.id], keep=section.distinct, maintain_order=True)


def _time(time: TimeColumn | str | None, mapping: DatasetMapping, schema: pl.Schema) -> pl.Expr:
    if not isinstance(time, TimeColumn):
        return pl.lit(None, pl.Int64)
    return epoch_ms(time, mapping.time, schema[time.column])


def _time_rules(section: Items | Users) -> list[limits.Rule]:
    return limits.event_time("event_time_ms") if isinstance(section.time, TimeColumn) else []


def _price(column: str | None, schema: pl.Schema) -> pl.Expr:
    if column is None:
        return pl.lit(None, pl.Float64)
    required_type(column, schema, schema[column].is_numeric(), "a number column (price)")
    # A 32-bit 2.55 is 2.5499999523162842 in 64 bits; cents are what the shop meant.
    if schema[column] == pl.Float32:
        return pl.col(column).cast(pl.String).cast(pl.Float64)
    return pl.col(column).cast(pl.Float64).fill_nan(None)


def _available(column: str | None, schema: pl.Schema) -> pl.Expr:
    if column is None:
        return pl.lit(True)
    dtype = schema[column]
    required_type(column, schema, dtype == pl.Boolean or dtype.is_numeric(), "true/false or 0/1")
    return pl.col(column).cast(pl.Boolean).fill_null(True)


def _category(rule: CategoryRule | None, rows: pl.DataFrame) -> pl.Expr:
    if rule is None:
        return pl.lit("")
    column = pl.col(rule.column)
    is_list = isinstance(rows.schema[rule.column], pl.List)
    if rule.rule == "first":
        if not is_list:
            column = column.cast(pl.String).str.split(rule.separator)
        value = column.list.first().cast(pl.String).str.strip_chars()
    else:
        required_type(rule.column, rows.schema, not is_list, 'one value (or rule = "first")')
        value = column.cast(pl.String).str.strip_chars()
    if rule.rule == "last_word":
        words = value.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}][\p{L}\p{N}'&/-]*")
        value = words.list.last()
    if rule.top is not None:
        counts = (
            rows.select(value.alias("category")).drop_nulls().filter(pl.col("category") != "")
            .group_by("category").len().sort(["len", "category"], descending=[True, False])
        )  # fmt: skip
        kept = counts["category"].head(rule.top)
        value = pl.when(value.is_in(kept.implode())).then(value).otherwise(pl.lit(rule.other))
    return value.fill_null("")


def _truncated(frame: pl.DataFrame, attributes: list[str]) -> pl.DataFrame:
    most = {"title": limits.MAX_TITLE, "text": limits.MAX_TEXT, "category": limits.MAX_CATEGORY}
    cut = [pl.col(c).str.slice(0, n) for c, n in most.items() if c in frame.columns]
    for name in attributes:
        if frame.schema[name] == pl.String:
            cut.append(pl.col(name).str.slice(0, limits.MAX_ATTRIBUTE_TEXT))
        elif isinstance(frame.schema[name], pl.List):
            element = pl.element().str.slice(0, limits.MAX_ATTRIBUTE_TEXT)
            cut.append(pl.col(name).list.head(limits.MAX_LIST_ATTRIBUTE).list.eval(element))
    return frame.with_columns(cut)
