"""A batch of decoded events as columns, for the stream: one row for each (event, item)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.events.log import Record
from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.features.aggregates import KINDS, Rows, units_of
from recsys.features.batch import Int64s

_INTERACTION, _IMPRESSION, _FEEDBACK = range(len(KINDS))


@dataclass(frozen=True, slots=True)
class Log:
    """Which record told which entity, ``[N]``."""

    owner: Int64s
    source: Int64s
    offset: Int64s


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Behaviour and profiles of one batch. Codes are places in ``user_ids`` and ``item_ids``."""

    user_ids: list[str]
    item_ids: list[str]
    user: Int64s
    item: Int64s
    rows: Rows
    """Owner is ``user``."""
    source: Int64s
    offset: Int64s
    user_events: list[tuple[int, int, int, UserEvent]]
    """``(user, source, offset, event)``."""
    item_events: list[tuple[int, int, int, ItemEvent]]
    """``(item, source, offset, event)``."""

    def user_log(self) -> Log:
        """Give which record told which user."""
        return _log(self.user, self.source, self.offset, [e[:3] for e in self.user_events])

    def item_log(self) -> Log:
        """Give which record told which item."""
        return _log(self.item, self.source, self.offset, [e[:3] for e in self.item_events])


def _log(owner: Int64s, source: Int64s, offset: Int64s, more: list[tuple[int, int, int]]) -> Log:
    if not more:
        return Log(owner, source, offset)
    extra = np.array(more, dtype=np.int64)
    return Log(
        np.concatenate([owner, extra[:, 0]]),
        np.concatenate([source, extra[:, 1]]),
        np.concatenate([offset, extra[:, 2]]),
    )


def columns_of(
    batch: Sequence[tuple[Record, Event]], source_of: dict[tuple[str, int], int]
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
    user_events: list[tuple[int, int, int, UserEvent]] = []
    item_events: list[tuple[int, int, int, ItemEvent]] = []
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
        elif isinstance(event, UserEvent):
            code = users.setdefault(event.user_id, len(users))
            user_events.append((code, source, record.offset, event))
        elif isinstance(event, ItemEvent):
            code = items.setdefault(event.item_id, len(items))
            item_events.append((code, source, record.offset, event))
    user_codes = np.array(user, dtype=np.int64)
    rows = Rows(
        owner=user_codes,
        time_ms=np.array(times, dtype=np.int64),
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
        source=np.array(sources, dtype=np.int64),
        offset=np.array(offsets, dtype=np.int64),
        user_events=user_events,
        item_events=item_events,
    )
