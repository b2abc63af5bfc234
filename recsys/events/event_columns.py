"""Events as columns of the event log, and back: the two are each other's inverse.

One wide table holds all kinds; a column that a kind does not have is null there. Free-form
parts (``context``, ``attributes``) are JSON text, everything else has its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import polars as pl

from recsys.events.log import Record
from recsys.events.log_format import LogFormat
from recsys.events.schema import (
    FeedbackEvent,
    ForgetEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    LoggedEvent,
    UserEvent,
)

SCHEMA: dict[str, pl.DataType] = {
    # where it lies in the log
    "topic": pl.String(),
    "partition": pl.Int32(),
    "offset": pl.Int64(),
    "ingest_time_ms": pl.Int64(),
    # every event
    "kind": pl.String(),
    "event_id": pl.String(),
    "event_time_ms": pl.Int64(),
    "schema_version": pl.Int16(),
    # who and what
    "user_id": pl.String(),
    "item_id": pl.String(),
    "request_id": pl.String(),
    # interactions and feedback
    "type": pl.String(),
    "value": pl.Float64(),
    "position": pl.Int32(),
    "context": pl.String(),
    # impressions
    "items": pl.List(pl.String()),
    "first_position": pl.Int32(),
    "propensities": pl.List(pl.Float64()),
    "policy": pl.String(),
    # items and users
    "title": pl.String(),
    "text": pl.String(),
    "category": pl.String(),
    "price": pl.Float64(),
    "born_ms": pl.Int64(),
    "available": pl.Boolean(),
    "attributes": pl.String(),
}
"""Columns and types of every file of the event log, in this order."""

_JSON_COLUMNS = ("context", "attributes")
_CLASSES: dict[str, type[Any]] = {
    "item": ItemEvent,
    "user": UserEvent,
    "impression": ImpressionEvent,
    "interaction": InteractionEvent,
    "feedback": FeedbackEvent,
    "forget": ForgetEvent,
}
_KIND_OF: dict[type[Any], str] = {cls: kind for kind, cls in _CLASSES.items()}
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(dict[str, Any]).decode


def to_frame(rows: Sequence[tuple[Record, LoggedEvent]]) -> pl.DataFrame:
    """Give one row per event, in the order of their offsets."""
    groups: dict[str, list[tuple[Record, LoggedEvent]]] = {}
    for row in rows:
        groups.setdefault(_KIND_OF[type(row[1])], []).append(row)
    frames = [_kind_frame(kind, group) for kind, group in groups.items()]
    empty = pl.DataFrame(schema=SCHEMA)
    frame = pl.concat([empty, *frames], how="diagonal")
    return frame.sort("topic", "partition", "offset")


def _kind_frame(kind: str, rows: list[tuple[Record, LoggedEvent]]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "topic": [record.topic for record, _ in rows],
        "partition": [record.partition for record, _ in rows],
        "offset": [record.offset for record, _ in rows],
        "ingest_time_ms": [record.timestamp_ms for record, _ in rows],
        "kind": [kind] * len(rows),
    }
    for name in _CLASSES[kind].__struct_fields__:
        if name in _JSON_COLUMNS:
            columns[name] = [_to_json(getattr(event, name)).decode() for _, event in rows]
        else:
            columns[name] = [getattr(event, name) for _, event in rows]
    return pl.DataFrame(columns, schema={name: SCHEMA[name] for name in columns})


def to_events(frame: pl.DataFrame) -> Iterator[LoggedEvent]:
    """Give the events of rows of the event log, in the order of the rows."""
    for row in frame.iter_rows(named=True):
        cls = _CLASSES[row["kind"]]
        fields = {name: row[name] for name in cls.__struct_fields__}
        for name in _JSON_COLUMNS:
            if name in fields:
                fields[name] = _from_json(fields[name])
        yield cls(**fields)


EVENTS: LogFormat[LoggedEvent] = LogFormat(
    schema=SCHEMA, time_ms=lambda event: event.event_time_ms, to_frame=to_frame
)
"""Items and behaviour in the event log."""
