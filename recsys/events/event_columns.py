"""Events as columns of the event log, and back: the two are each other's inverse.

One wide table holds all kinds; a column that a kind does not have is null there. Free-form
parts (``context``, ``attributes``) are JSON text, everything else has its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

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
_to_lines = msgspec.json.Encoder().encode_lines
_from_json = msgspec.json.Decoder(dict[str, Any]).decode


def to_frame(rows: Sequence[tuple[Record, LoggedEvent]]) -> pl.DataFrame:
    """Give one row per event, by topic, partition and offset."""
    frame = frame_of([record for record, _ in rows], [event for _, event in rows])
    return frame.sort("topic", "partition", "offset")


def frame_of(records: Sequence[Record], events: Sequence[LoggedEvent]) -> pl.DataFrame:
    """Give one row per event, in the given order.

    A column at a time, of all events: nothing is looked at twice or built for one event.
    """
    if not events:
        return pl.DataFrame(schema=SCHEMA)
    types: list[type[Any]] = list(map(type, events))
    kinds = list(dict.fromkeys(types))
    code_of = {kind: code for code, kind in enumerate(kinds)}
    codes = np.fromiter(map(code_of.__getitem__, types), np.int64, len(types))
    columns = place_columns(records)
    columns.append(_column("kind", list(map(_KIND_OF.__getitem__, types))))
    some: dict[tuple[bool, ...], _Some] = {}
    for name in list(SCHEMA)[len(columns) :]:
        having = tuple(name in kind.__struct_fields__ for kind in kinds)
        if all(having):
            columns.append(_column(name, list(map(attrgetter(name), events))))
        elif not any(having):
            columns.append(_column(name, [None] * len(events)))
        else:
            if having not in some:
                some[having] = _Some(np.array(having)[codes], events)
            columns.append(_column(name, some[having].values_of(name)))
    return pl.DataFrame(columns)


class _Some:
    """The events of some kinds, and where each of all events is among them."""

    def __init__(self, there: NDArray[np.bool_], events: Sequence[LoggedEvent]) -> None:
        self._events = list(compress(events, there.tolist()))
        self._places: list[int] = np.where(there, there.cumsum() - 1, -1).tolist()

    def values_of(self, name: str) -> list[Any]:
        """Give a column that only these kinds have; ``None`` for all others."""
        own = [*map(attrgetter(name), self._events), None]
        return list(map(own.__getitem__, self._places))


def place_columns(records: Sequence[Record]) -> list[pl.Series]:
    """Give where records lie in the log: the first four columns."""
    fields = ("topic", "partition", "offset", "timestamp_ms")
    return [
        _column(name, list(map(attrgetter(field), records)))
        for name, field in zip(SCHEMA, fields, strict=False)
    ]


def _column(name: str, values: list[Any]) -> pl.Series:
    dtype = SCHEMA[name]
    if values and values[0] is values[-1] is None and values.count(None) == len(values):
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(values))
    if isinstance(dtype, pl.List):
        return pl.Series(name, list_column(values, dtype))
    if name in _JSON_COLUMNS:
        return _json_column(name, values)
    if (
        values
        and dtype != pl.Float64()
        and values[0] == values[-1]
        and values.count(values[0]) == len(values)
    ):
        # Most often topic, version and what a sender leaves out are one value. Equal floats may
        # still be written otherwise: 0.0 and -0.0.
        return pl.Series(name, values[:1], dtype=dtype).new_from_index(0, len(values))
    return pl.Series(name, values, dtype=dtype)


def _json_column(name: str, values: list[Any]) -> pl.Series:
    if not any(values) and None not in values:
        return pl.Series(name, ["{}"], dtype=pl.String()).new_from_index(0, len(values))
    # One JSON text a line, and no line break within one.
    texts: list[Any] = _to_lines(values).decode().split("\n")[: len(values)]
    if None in values:
        texts = [None if value is None else text for value, text in zip(values, texts, strict=True)]
    return pl.Series(name, texts, dtype=pl.String())


def list_column(values: list[Any], dtype: pl.DataType) -> pl.Series:
    """Give a column of lists; Polars would make a column of each list first.

    Of parts: ``pyarrow.array`` of Python values imports pandas when it is first called, which keeps
    a stream worker that writes its first file from its events for more than a second.
    """
    there = np.array([value is not None for value in values], dtype=np.bool_)
    having = [value for value in values if value is not None]
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    offsets[1:][there] = np.fromiter(map(len, having), np.int64, len(having))
    np.cumsum(offsets, out=offsets)
    inner = pl.String() if dtype == pl.List(pl.String()) else pl.Float64()
    flat = pl.Series(list(chain.from_iterable(having)), dtype=inner)
    made = pl.from_arrow(
        pa.LargeListArray.from_arrays(
            pl.Series(offsets).to_arrow(),
            flat.to_arrow(compat_level=pl.CompatLevel.oldest()),
            mask=pl.Series(~there).to_arrow(),
        )
    )
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
