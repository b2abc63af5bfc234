"""Impression, interaction and feedback events of a data set."""

from __future__ import annotations

from typing import Literal

import polars as pl

from recsys.datasets import limits
from recsys.datasets.columns import (
    as_identifier,
    as_identifier_list,
    attribute_columns,
    required_type,
)
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_events import (
    Behaviour,
    FromImpression,
    FromRow,
    Impressions,
    TypeColumn,
)
from recsys.datasets.readers import FILE_COLUMN, ROW_COLUMN
from recsys.datasets.sources import Sources
from recsys.datasets.times import epoch_ms

_IMPRESSION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "event_id": pl.String, "event_time_ms": pl.Int64, "user_id": pl.String,
    "request_id": pl.String, "items": pl.List(pl.String), "first_position": pl.Int64,
    "propensities": pl.List(pl.Float64), "policy": pl.String,
    "source": pl.String, "file": pl.UInt32, "row": pl.UInt32,
}  # fmt: skip
_ACT_SCHEMA = {
    "event_id": pl.String, "event_time_ms": pl.Int64, "user_id": pl.String, "item_id": pl.String,
    "type": pl.String, "value": pl.Float64, "request_id": pl.String, "position": pl.Int64,
    "source": pl.String, "file": pl.UInt32, "row": pl.UInt32, "__from_impression": pl.Boolean,
}  # fmt: skip


def impressions(mapping: DatasetMapping, sources: Sources) -> pl.DataFrame:
    """Give the impression events of all sections."""
    frames = [pl.DataFrame(schema=_IMPRESSION_SCHEMA)]
    for index, section in enumerate(mapping.impressions):
        where = f"impressions[{index}]"
        frame = _shown_lists(mapping, sources, section, where)
        rules = [
            *limits.identifier("user_id", "user id"),
            *limits.identifier("request_id", "request id"),
            *limits.event_time("event_time_ms"),
            *_list_rules(),
            *_context_rules(frame),
            *(limits.identifier("event_id", "event id") if section.event_id else []),
        ]
        frame = sources.refuse(frame, rules, kind="impression", source=where, table=section.table)
        frames.append(frame.drop("__gap", strict=False))
    return pl.concat(frames, how="diagonal")


def acts(
    mapping: DatasetMapping, sources: Sources, kind: Literal["interaction", "feedback"]
) -> pl.DataFrame:
    """Give the interaction or feedback events of all sections."""
    name = "interactions" if kind == "interaction" else "feedback"
    sections: list[Behaviour] = getattr(mapping, name)
    frames = [pl.DataFrame(schema=_ACT_SCHEMA)]
    for index, section in enumerate(sections):
        where = f"{name}[{index}]"
        frame = _act_rows(mapping, sources, section, where)
        rules = [
            *limits.identifier("user_id", "user id"),
            *limits.identifier("item_id", "item id"),
            *limits.event_time("event_time_ms"),
            *limits.number(
                "value", "value", low=-limits.MAX_FINITE, high=limits.MAX_FINITE, required=True
            ),
            *(limits.identifier("request_id", "request id")[1:]),
            *limits.number("position", "position", low=0, high=limits.MAX_POSITION, required=False)[
                :1
            ],
            *_context_rules(frame),
            *(limits.identifier("event_id", "event id") if section.event_id else []),
        ]
        frame = sources.refuse(frame, rules, kind=kind, source=where, table=section.table)
        frames.append(frame)
    return pl.concat(frames, how="diagonal")


def with_positions(frame: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Fill positions of rows that ask for it from the impression with the same request id.

    An item shown twice in one list counts at its first place; an item that was not in the list
    keeps a null position.
    """
    asks = pl.col("__from_impression")
    if not frame.select(asks.any()).item():
        return frame.drop("__from_impression")
    places = (
        shown.select("request_id", "items", "first_position")
        .with_columns(place=pl.int_ranges(0, pl.col("items").list.len()))
        .explode("items", "place")
        .with_columns(place=pl.col("place") + pl.col("first_position"))
        .group_by("request_id", item_id="items")
        .agg(pl.col("place").min())
    )
    joined = frame.join(places, on=["request_id", "item_id"], how="left", maintain_order="left")
    position = pl.when(asks).then(pl.col("place")).otherwise(pl.col("position"))
    return joined.with_columns(position=position).drop("place", "__from_impression")


def _shown_lists(
    mapping: DatasetMapping, sources: Sources, section: Impressions, where: str
) -> pl.DataFrame:
    rows = sources.rows(section, where)
    schema = rows.schema
    contexts = attribute_columns("context", section.context, schema, text_only=True)
    base = {
        "event_id": _optional_text(section.event_id, schema),
        "event_time_ms": epoch_ms(section.time, mapping.time, schema[section.time.column]),
        "user_id": as_identifier(section.user, schema),
        "request_id": _request_id(section, schema),
        "policy": pl.lit(section.policy),
        "source": pl.lit(where),
        "file": pl.col(FILE_COLUMN),
        "row": pl.col(ROW_COLUMN),
    }
    place = _place(section.position, section.first_position, schema)
    if section.items is not None:
        chances = pl.lit([], pl.List(pl.Float64))
        if section.propensity is not None:
            chances = pl.col(section.propensity).cast(pl.List(pl.Float64))
        return rows.select(
            **base, **contexts,
            items=as_identifier_list(section.items, schema),
            propensities=chances,
            first_position=place.fill_null(0),
            __gap=pl.lit(False),
        )  # fmt: skip
    assert section.item is not None
    chance = pl.lit(None, pl.Float64)
    if section.propensity is not None:
        chance = pl.col(section.propensity).cast(pl.Float64)
    shown = rows.select(
        **base, **contexts, item=as_identifier(section.item, schema), place=place, chance=chance
    )
    # Rows without a request id cannot be grouped; each is refused on its own below.
    order = shown.sort("place", maintain_order=True, nulls_last=True)
    span = pl.col("place").max() - pl.col("place").min() + 1
    gap = (span != pl.len()) | (pl.col("place").n_unique() != pl.len())
    return order.group_by("user_id", "request_id", maintain_order=True).agg(
        *(pl.col(c).first() for c in base if c not in ("user_id", "request_id", "event_time_ms")),
        *(pl.col(c).first() for c in contexts),
        event_time_ms=pl.col("event_time_ms").min(),
        items=pl.col("item"),
        propensities=pl.col("chance").drop_nulls(),
        first_position=pl.col("place").min().fill_null(0),
        __gap=gap & pl.col("place").is_not_null().any(),
    ).sort("file", "row")  # fmt: skip


def _act_rows(
    mapping: DatasetMapping, sources: Sources, section: Behaviour, where: str
) -> pl.DataFrame:
    rows = sources.rows(section, where)
    schema = rows.schema
    if isinstance(section.type, TypeColumn):
        names = section.type.names
        said = pl.col(section.type.column).cast(pl.String)
        rows = rows.filter(said.is_in(list(names)))
        kind = said.replace_strict(list(names), list(names.values()), return_dtype=pl.String)
    else:
        kind = pl.lit(section.type)
    if isinstance(section.value, str):
        required_type(
            section.value, schema,
            schema[section.value].is_numeric() or schema[section.value] == pl.Boolean, "numbers",
        )  # fmt: skip
        value = pl.col(section.value).cast(pl.Float64)
    else:
        value = pl.lit(float(section.value))
    from_impression = isinstance(section.position, FromImpression)
    position = None if isinstance(section.position, FromImpression) else section.position
    return rows.select(
        event_id=_optional_text(section.event_id, schema),
        event_time_ms=epoch_ms(section.time, mapping.time, schema[section.time.column]),
        user_id=as_identifier(section.user, schema),
        item_id=as_identifier(section.item, schema),
        type=kind,
        value=value,
        request_id=_request_id(section, schema),
        position=_place(position, section.first_position, schema),
        source=pl.lit(where),
        file=pl.col(FILE_COLUMN),
        row=pl.col(ROW_COLUMN),
        __from_impression=pl.lit(from_impression),
        **attribute_columns("context", section.context, schema, text_only=True),
    )


def _request_id(section: Impressions | Behaviour, schema: pl.Schema) -> pl.Expr:
    if section.request_id is None:
        return pl.lit(None, pl.String)
    if isinstance(section.request_id, FromRow):
        return pl.concat_str(
            pl.lit(section.table), pl.col(FILE_COLUMN), pl.col(ROW_COLUMN), separator="-"
        )
    return as_identifier(section.request_id, schema)


def _optional_text(column: str | None, schema: pl.Schema) -> pl.Expr:
    return pl.lit(None, pl.String) if column is None else as_identifier(column, schema)


def _place(position: str | int | None, first: int, schema: pl.Schema) -> pl.Expr:
    if position is None:
        return pl.lit(None, pl.Int64)
    if isinstance(position, int):
        return pl.lit(position, pl.Int64)
    required_type(position, schema, schema[position].is_numeric(), "whole numbers (position)")
    return pl.col(position).cast(pl.Int64) - first


def _list_rules() -> list[limits.Rule]:
    items, chances = pl.col("items"), pl.col("propensities")
    lengths = items.list.eval(pl.element().str.len_chars())
    return [
        limits.Rule(
            reason=f"list of items is not 1 to {limits.MAX_LIST} long",
            broken=~items.list.len().is_between(1, limits.MAX_LIST) | items.is_null(),
            shown="items",
        ),
        limits.Rule(
            reason="list has an item id that is missing or not 1 to 128 characters",
            broken=items.list.eval(pl.element().is_null()).list.any()
            | (lengths.list.min() < 1)
            | (lengths.list.max() > limits.MAX_IDENTIFIER),
            shown="items",
        ),
        limits.Rule(
            reason="list has an item id with control characters",
            broken=items.list.eval(pl.element().str.contains(r"[\x00-\x1f\x7f]")).list.any(),
            shown="items",
        ),
        limits.Rule(reason="positions have gaps or repeat", broken=pl.col("__gap"), shown="items"),
        *limits.number(
            "first_position", "first position", low=0, high=limits.MAX_POSITION, required=False
        )[:1],
        limits.Rule(
            reason="propensities are not one per item, each in (0, 1]",
            broken=(chances.list.len() > 0)
            & (
                (chances.list.len() != items.list.len())
                | ~(chances.list.min() > 0)
                | (chances.list.max() > 1)
            ),
            shown="propensities",
        ),
    ]


def _context_rules(frame: pl.DataFrame) -> list[limits.Rule]:
    return [
        rule
        for name in frame.columns
        if name.startswith("context.")
        for rule in limits.attribute(name, name, frame.schema[name])
    ]
