"""A batch of decoded events as columns, for the stream: one row for each (event, item)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.events.log import Record
from recsys.events.schema import (
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    LoggedEvent,
    UserEvent,
)
from recsys.features.aggregates import KINDS, Rows, units_of
from recsys.features.batch import Int64s
from recsys.features.event_times import effective_at_ms, known_at_ms

_INTERACTION, _IMPRESSION, _FEEDBACK = range(len(KINDS))


class Told(NamedTuple):
    """One profile event."""

    owner: int
    """Place in ``user_ids`` or ``item_ids``."""
    source: int
    offset: int
    effective_ms: int
    known_ms: int
    event: UserEvent | ItemEvent


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Behaviour and profiles of one batch. Codes are places in ``user_ids`` and ``item_ids``."""

    user_ids: list[str]
    item_ids: list[str]
    user: Int64s
    item: Int64s
    rows: Rows
    """Owner is ``user``; times are effective (``event_times.py``)."""
    known_ms: Int64s
    """When the log received each row's record."""
    source: Int64s
    offset: Int64s
    user_events: list[Told]
    item_events: list[Told]


def columns_of(
    batch: Sequence[tuple[Record, LoggedEvent]], source_of: dict[tuple[str, int], int]
) -> BatchColumns:
    """Turn events into columns; ``source_of`` numbers the partitions (``positions.py``)."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    types: dict[str, int] = {"": 0}
    user: list[int] = []
    item: list[int] = []
    times: list[int] = []
    values: list[float] = []
    kinds: list[int] = []
    event_types: list[int] = []
    sources: list[int] = []
    offsets: list[int] = []
    received: list[int] = []
    user_events: list[Told] = []
    item_events: list[Told] = []
    for record, event in batch:
        source = source_of[record.topic, record.partition]
        kind_of_event = type(event)
        if kind_of_event is InteractionEvent or kind_of_event is FeedbackEvent:
            user.append(users.setdefault(event.user_id, len(users)))  # type: ignore[union-attr]
            item.append(items.setdefault(event.item_id, len(items)))  # type: ignore[union-attr]
            times.append(event.event_time_ms)
            values.append(event.value)  # type: ignore[union-attr]
            kinds.append(_INTERACTION if kind_of_event is InteractionEvent else _FEEDBACK)
            event_types.append(types.setdefault(event.type, len(types)))  # type: ignore[union-attr]
            sources.append(source)
            offsets.append(record.offset)
            received.append(record.timestamp_ms)
        elif isinstance(event, ImpressionEvent):
            count = len(event.items)
            user += [users.setdefault(event.user_id, len(users))] * count
            item += [items.setdefault(item_id, len(items)) for item_id in event.items]
            times += [event.event_time_ms] * count
            values += [1.0] * count
            kinds += [_IMPRESSION] * count
            event_types += [0] * count
            sources += [source] * count
            offsets += [record.offset] * count
            received += [record.timestamp_ms] * count
        elif isinstance(event, UserEvent):
            code = users.setdefault(event.user_id, len(users))
            user_events.append(_told(code, source, record, event))
        elif isinstance(event, ItemEvent):
            code = items.setdefault(event.item_id, len(items))
            item_events.append(_told(code, source, record, event))
    event_ms = np.array(times, dtype=np.int64)
    received_ms = np.array(received, dtype=np.int64)
    user_codes = np.array(user, dtype=np.int64)
    rows = Rows(
        owner=user_codes,
        time_ms=effective_at_ms(event_ms, received_ms),
        units=units_of(values),
        kind=np.array(kinds, dtype=np.uint8),
        event_type=np.array(event_types, dtype=np.int64),
        types=list(types),
    )
    return BatchColumns(
        user_ids=list(users),
        item_ids=list(items),
        user=user_codes,
        item=np.array(item, dtype=np.int64),
        rows=rows,
        known_ms=known_at_ms(event_ms, received_ms),
        source=np.array(sources, dtype=np.int64),
        offset=np.array(offsets, dtype=np.int64),
        user_events=user_events,
        item_events=item_events,
    )


def _told(owner: int, source: int, record: Record, event: UserEvent | ItemEvent) -> Told:
    known_ms = record.timestamp_ms if record.timestamp_ms > 0 else event.event_time_ms
    effective_ms = min(event.event_time_ms, known_ms)
    return Told(owner, source, record.offset, effective_ms, known_ms, event)
