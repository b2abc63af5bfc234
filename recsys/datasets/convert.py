"""A data set as a stream of events in the order in which they happened.

``iter_events`` is what replay, training and the benchmarks read. Columns are prepared whole
(``tables.py``); here they become structs, a chunk at a time, so that memory holds the frames and
one chunk. Order: event time, then items, users, impressions, interactions, feedback, then the
order of the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.clock import WEEK_MS
from recsys.datasets.load import load_mapping
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.tables import DatasetTables, to_tables
from recsys.errors import MappingError
from recsys.events.schema import (
    EVENT_KINDS,
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)

__all__ = [
    "DatasetTables",
    "iter_events",
    "iter_table_events",
    "load_mapping",
    "shift_to_present_ms",
    "to_tables",
]

logger = logging.getLogger(__name__)

_CHUNK_EVENTS = 16_384
"""Events built at once: large enough that a chunk's fixed cost (a millisecond) vanishes."""


def iter_events(mapping: DatasetMapping, data_dir: Path, *, shift_ms: int = 0) -> Iterator[Event]:
    """Give a data set's events in order of event time.

    Items and users without a time of their own come first, at the earliest time of the data. Ties
    keep the order of kinds and then of the files. ``shift_ms`` is added to every time (also of
    births); see ``shift_to_present_ms``.

    Raises:
        MappingError: when tables do not fit, or more rows are unusable than the mapping's
            ``[check]`` allows. Raised before the first event.
    """
    tables = to_tables(mapping, data_dir)
    refuse_bad_rows(mapping, tables)
    return iter_table_events(tables, shift_ms=shift_ms)


def refuse_bad_rows(mapping: DatasetMapping, tables: DatasetTables) -> None:
    """Raise MappingError when more rows are unusable than the mapping allows; else log them."""
    num_bad = tables.bad_rows.height
    if num_bad == 0:
        return
    allowed = sum(
        rule.at_most for rule in mapping.check.allow if rule.check in ("bad_rows", "nulls")
    )
    first = tables.bad_rows.row(0, named=True)
    if num_bad > allowed:
        raise MappingError(
            f"data set {mapping.name!r}: {num_bad} rows cannot become events (allowed {allowed}); "
            f"first: {first['file']} row {first['row']}, {first['source']}: {first['reason']} "
            f"(found {first['value']!r}); run `recsys data check`, then mend the file, filter the "
            "rows with `where`, or allow them in [check]"
        )
    logger.warning("rows left out", extra={"dataset": mapping.name, "num_rows": num_bad})


def shift_to_present_ms(last_ms: int, now_ms: int) -> int:
    """Give the largest whole number of weeks that keeps ``last_ms`` no later than ``now_ms``.

    Whole weeks keep the hour of the day and the day of the week. Negative when the data is newer
    than ``now_ms``.
    """
    return (now_ms - last_ms) // WEEK_MS * WEEK_MS


def iter_table_events(tables: DatasetTables, *, shift_ms: int = 0) -> Iterator[Event]:
    """Give the events of tables already read; see ``iter_events``."""
    times = [tables.of_kind(kind)["event_time_ms"].to_numpy() for kind in EVENT_KINDS]
    kinds = np.repeat(np.arange(len(EVENT_KINDS), dtype=np.int8), [len(t) for t in times])
    # Stable, and each kind is sorted by itself: a chunk takes a slice of each kind's frame.
    order = np.argsort(np.concatenate(times), kind="stable")
    kinds_in_order = kinds[order]
    taken = [0] * len(EVENT_KINDS)
    for start in range(0, len(kinds_in_order), _CHUNK_EVENTS):
        chunk = kinds_in_order[start : start + _CHUNK_EVENTS]
        counts = np.bincount(chunk, minlength=len(EVENT_KINDS)).tolist()
        streams: list[Iterator[Event]] = []
        for index, kind in enumerate(EVENT_KINDS):
            frame = tables.of_kind(kind).slice(taken[index], counts[index])
            streams.append(
                _BUILDERS[kind](_shifted(frame, shift_ms)) if counts[index] else iter(())
            )
            taken[index] += counts[index]
        for index in chunk.tolist():
            yield next(streams[index])


def _shifted(frame: pl.DataFrame, shift_ms: int) -> pl.DataFrame:
    if shift_ms == 0:
        return frame
    times = [c for c in ("event_time_ms", "born_ms") if c in frame.columns]
    return frame.with_columns(pl.col(times) + shift_ms)


def _maps(frame: pl.DataFrame, prefix: str) -> Iterator[dict[str, Any]]:
    """Give ``{name: value}`` of each row's ``prefix.name`` columns, nulls left out."""
    columns = [name for name in frame.columns if name.startswith(prefix)]
    if not columns:
        for _ in range(frame.height):
            yield {}
        return
    names = [name.removeprefix(prefix) for name in columns]
    lists = [frame[name].to_list() for name in columns]
    for values in zip(*lists, strict=True):
        yield {n: v for n, v in zip(names, values, strict=True) if v is not None}


def _columns(frame: pl.DataFrame, *names: str) -> list[list[Any]]:
    return [frame[name].to_list() for name in names]


def _items(frame: pl.DataFrame) -> Iterator[Event]:
    columns = _columns(
        frame, "event_id", "event_time_ms", "item_id", "title", "text", "category", "price",
        "born_ms", "available",
    )  # fmt: skip
    for event_id, time, item, title, text, category, price, born, available, attributes in zip(
        *columns, _maps(frame, "attributes."), strict=True
    ):
        yield ItemEvent(
            event_id=event_id, event_time_ms=time, item_id=item, title=title, text=text,
            category=category, price=price, born_ms=born, available=available,
            attributes=attributes,
        )  # fmt: skip


def _users(frame: pl.DataFrame) -> Iterator[Event]:
    columns = _columns(frame, "event_id", "event_time_ms", "user_id")
    for event_id, time, user, attributes in zip(*columns, _maps(frame, "attributes."), strict=True):
        yield UserEvent(event_id=event_id, event_time_ms=time, user_id=user, attributes=attributes)


def _impressions(frame: pl.DataFrame) -> Iterator[Event]:
    columns = _columns(
        frame, "event_id", "event_time_ms", "user_id", "request_id", "items", "first_position",
        "propensities", "policy",
    )  # fmt: skip
    for event_id, time, user, request, items, first, chances, policy, context in zip(
        *columns, _maps(frame, "context."), strict=True
    ):
        yield ImpressionEvent(
            event_id=event_id, event_time_ms=time, user_id=user, request_id=request, items=items,
            first_position=first, propensities=chances, policy=policy, context=context,
        )  # fmt: skip


def _acts(
    struct: type[InteractionEvent] | type[FeedbackEvent], frame: pl.DataFrame
) -> Iterator[Event]:
    columns = _columns(
        frame, "event_id", "event_time_ms", "user_id", "item_id", "type", "value", "request_id",
        "position",
    )  # fmt: skip
    for event_id, time, user, item, kind, value, request, position, context in zip(
        *columns, _maps(frame, "context."), strict=True
    ):
        yield struct(
            event_id=event_id, event_time_ms=time, user_id=user, item_id=item, type=kind,
            value=value, request_id=request, position=position, context=context,
        )  # fmt: skip


_BUILDERS: dict[str, Callable[[pl.DataFrame], Iterator[Event]]] = {
    "item": _items,
    "user": _users,
    "impression": _impressions,
    "interaction": lambda frame: _acts(InteractionEvent, frame),
    "feedback": lambda frame: _acts(FeedbackEvent, frame),
}
