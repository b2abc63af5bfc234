"""Rows of the event log as the very columns the stream works on (``batch_columns.py``)."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.events.event_columns import to_events
from recsys.events.schema import ItemEvent, UserEvent
from recsys.features.batch import Int64s
from recsys.features.batch_columns import BatchColumns, Told
from recsys.features.event_rows import KINDS, Rows, units_of
from recsys.features.event_times import with_times

LOG_COLUMNS = (
    "topic", "partition", "offset", "kind", "event_id", "event_time_ms", "ingest_time_ms",
    "schema_version",
    "user_id", "item_id", "type", "value", "items", "title", "category", "price", "born_ms",
    "available", "attributes", "text",
)  # fmt: skip
"""What features are made of."""
_ROW_COLUMNS = (
    "user_id", "item_id", "kind", "type", "value", "effective_ms", "known_ms", "source", "offset",
)  # fmt: skip
_TOLD_COLUMNS = (*LOG_COLUMNS, "effective_ms", "known_ms", "source")
TOLD_KINDS = ("user", "item")
"""Kinds of events that say what somebody or something is."""


def rows_of_frame(frame: pl.DataFrame, source_base: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give behaviour, one row for each (event, item), and the events of users and items.

    ``frame`` has ``LOG_COLUMNS``, of one topic, whose partitions are numbered from ``source_base``.
    """
    numbered = with_times(frame).with_columns(
        source=pl.col("partition").cast(pl.Int64) + source_base,
        type=pl.col("type").fill_null(""),
    )
    kinds = {kind: n for n, kind in enumerate(KINDS)}
    behaviour = numbered.filter(pl.col("kind").is_in(KINDS)).with_columns(
        pl.col("kind").replace_strict(kinds, return_dtype=pl.UInt8)
    )
    shown = behaviour.filter(pl.col("kind") == kinds["impression"])
    if len(shown):
        exploded = shown.with_columns(item_id=pl.col("items"), value=pl.lit(1.0))
        acted = behaviour.filter(pl.col("kind") != kinds["impression"])
        both = [acted.select(_ROW_COLUMNS), exploded.explode("item_id").select(_ROW_COLUMNS)]
        behaviour = pl.concat(both).sort("source", "offset", maintain_order=True)
    told = numbered.filter(pl.col("kind").is_in(TOLD_KINDS))
    return behaviour.select(_ROW_COLUMNS), told.select(_TOLD_COLUMNS)


def columns_of_rows(behaviour: pl.DataFrame, told: pl.DataFrame) -> BatchColumns:
    """Turn what ``rows_of_frame`` gave into what ``batch_columns.columns_of`` makes of events."""
    users = told.filter(pl.col("kind") == "user")
    items = told.filter(pl.col("kind") == "item")
    user_ids, user, told_user = _codes(behaviour["user_id"], users["user_id"])
    item_ids, item, told_item = _codes(behaviour["item_id"], items["item_id"])
    types, event_type, _ = _codes(behaviour["type"], behaviour["type"][:0])
    return BatchColumns(
        user_ids=user_ids,
        item_ids=item_ids,
        user=user,
        item=item,
        rows=Rows(
            owner=user,
            time_ms=_int64(behaviour, "effective_ms"),
            units=units_of(behaviour["value"].to_numpy()),
            kind=behaviour["kind"].to_numpy(),
            event_type=event_type,
            types=types,
        ),
        known_ms=_int64(behaviour, "known_ms"),
        source=_int64(behaviour, "source"),
        offset=_int64(behaviour, "offset"),
        user_events=_told(users, told_user),
        item_events=_told(items, told_item),
    )


def _codes(behaviour: pl.Series, told: pl.Series) -> tuple[list[str], Int64s, Int64s]:
    """Give distinct values, and the place of each value of both among them."""
    encoded = pl.concat([behaviour, told]).to_arrow()
    if isinstance(encoded, pa.ChunkedArray):  # pragma: no cover - polars gives one array
        encoded = encoded.combine_chunks()
    encoded = encoded.dictionary_encode()
    # Arrow's own ways to NumPy and to Python import pandas first: a second and more.
    indices = encoded.indices
    found = np.frombuffer(indices.buffers()[1], dtype=indices.type.to_pandas_dtype())
    codes = found[indices.offset : indices.offset + len(indices)].astype(np.int64)
    names = pl.Series(values=encoded.dictionary).to_list()
    return names, codes[: len(behaviour)], codes[len(behaviour) :]


def _told(frame: pl.DataFrame, owner: Int64s) -> list[Told]:
    names = ("source", "offset", "effective_ms", "known_ms")
    columns = zip(owner.tolist(), *(frame[name].to_list() for name in names), strict=True)
    return [
        Told(code, source, offset, effective_ms, known_ms, event)
        for (code, source, offset, effective_ms, known_ms), event in zip(
            columns, to_events(frame), strict=True
        )
        if isinstance(event, UserEvent | ItemEvent)
    ]


def _int64(frame: pl.DataFrame, name: str) -> Int64s:
    return frame[name].to_numpy().astype(np.int64)
