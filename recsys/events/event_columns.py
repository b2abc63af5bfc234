"""Events as columns of the event log, and back: the two are each other's inverse.

One wide table holds all kinds; a column that a kind does not have is null there. Free-form
parts (``context``, ``attributes``) are JSON text, everything else has its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

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
T = TypeVar("T")
_KIND_OF: dict[type[Any], str] = {cls: kind for kind, cls in _CLASSES.items()}
_to_lines = msgspec.json.Encoder().encode_lines
_from_json = msgspec.json.Decoder(dict[str, Any]).decode


def to_frame(rows: Sequence[tuple[Record, LoggedEvent]]) -> pl.DataFrame:
    """Give one row per event, by topic, partition and offset."""
    frame = frame_of([record for record, _ in rows], [event for _, event in rows])
    return frame.sort("topic", "partition", "offset")


def frame_of(records: Sequence[Record], events: Sequence[LoggedEvent]) -> pl.DataFrame:
    """Give one row per event, in the given order.

    A column at a time, of all events of a kind: nothing is looked at twice or built for one event.
    """
    types = list(map(type, events))
    present = set(types)
    if len(present) == 1:
        return _with_all_columns(_kind_frame(_KIND_OF[present.pop()], records, events))
    frames: list[pl.DataFrame] = []
    places: list[int] = []
    for kind, cls in _CLASSES.items():
        if cls in present:
            mine = [n for n, one in enumerate(types) if one is cls]
            frames.append(_kind_frame(kind, _of(records, mine), _of(events, mine)))
            places += mine
    if not frames:
        return pl.DataFrame(schema=SCHEMA)
    frame = _with_all_columns(pl.concat(frames, how="diagonal"))
    return frame[np.argsort(places)]


def _of(rows: Sequence[T], places: Sequence[int]) -> list[T]:
    return [rows[n] for n in places]


def _with_all_columns(frame: pl.DataFrame) -> pl.DataFrame:
    has = set(frame.columns)
    return frame.select(
        pl.col(name) if name in has else pl.lit(None, dtype).alias(name)
        for name, dtype in SCHEMA.items()
    )


def _kind_frame(
    kind: str, records: Sequence[Record], events: Sequence[LoggedEvent]
) -> pl.DataFrame:
    columns = place_columns(records)
    columns.append(pl.repeat(kind, len(events), dtype=pl.String(), eager=True).alias("kind"))
    for name in _CLASSES[kind].__struct_fields__:
        values = list(map(attrgetter(name), events))
        columns.append(pl.Series(name, _plain(name, values), dtype=SCHEMA[name]))
    return pl.DataFrame(columns)


def place_columns(records: Sequence[Record]) -> list[pl.Series]:
    """Give where records lie in the log: the first four columns."""
    fields = ("topic", "partition", "offset", "timestamp_ms")
    return [
        pl.Series(name, list(map(attrgetter(field), records)), dtype=SCHEMA[name])
        for name, field in zip(SCHEMA, fields, strict=False)
    ]


def _plain(name: str, values: list[Any]) -> Any:
    if name in _JSON_COLUMNS:  # one JSON text a line, and no line break within one
        return _to_lines(values).decode().split("\n")[: len(values)]
    if isinstance(SCHEMA[name], pl.List):
        return list_column(values, SCHEMA[name])
    return values


def list_column(values: list[list[Any]], dtype: pl.DataType) -> pl.Series:
    """Give a column of lists; Polars would make a column of each list first."""
    inner = pa.large_string() if dtype == pl.List(pl.String()) else pa.float64()
    made = pl.from_arrow(pa.array(values, pa.large_list(inner)))
    assert isinstance(made, pl.Series)
    return made


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
    schema=SCHEMA, time_ms=attrgetter("event_time_ms"), frame_of=frame_of
)
"""Items and behaviour in the event log."""
