"""A batch of decoded events as columns, for the stream: one row for each (event, item)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, get_args

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
from recsys.features.batch import Int64s
from recsys.features.event_rows import KINDS, Rows, units_of
from recsys.features.event_times import effective_at_ms, known_at_ms
from recsys.features.positions import Sources
from recsys.features.runs import Run

LOGGED_EVENTS: tuple[type, ...] = get_args(LoggedEvent)
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


def columns_of(runs: Sequence[Run[LoggedEvent]], source_of: Sources) -> BatchColumns:
    """Turn events into columns; rows keep the order of ``runs``.

    One list is made of each attribute instead of several of each event: it costs a third.
    """
    events = [event for run in runs for event in run.events]
    records = [record for run in runs for record in run.records]
    source = np.repeat(
        np.array([source_of[run.at] for run in runs], dtype=np.int64),
        np.array([len(run) for run in runs], dtype=np.int64),
    )
    offset = np.array([record.offset for record in records], dtype=np.int64)
    received_ms = np.array([record.timestamp_ms for record in records], dtype=np.int64)
    told_ms = np.array([event.event_time_ms for event in events], dtype=np.int64)

    of_type: dict[type, list[int]] = {kind: [] for kind in LOGGED_EVENTS}
    for n, kind in enumerate(map(type, events)):
        of_type[kind].append(n)
    clicks, answers, shows = (
        of_type[k] for k in (InteractionEvent, FeedbackEvent, ImpressionEvent)
    )
    acts: list[InteractionEvent | FeedbackEvent] = [events[n] for n in (*clicks, *answers)]  # type: ignore[misc]
    shown: list[ImpressionEvent] = [events[n] for n in shows]  # type: ignore[misc]
    users: list[UserEvent] = [events[n] for n in of_type[UserEvent]]  # type: ignore[misc]
    items: list[ItemEvent] = [events[n] for n in of_type[ItemEvent]]  # type: ignore[misc]

    counts = _int64s([len(event.items) for event in shown])
    place = np.concatenate([_int64s(clicks), _int64s(answers), np.repeat(_int64s(shows), counts)])
    in_order = np.argsort(place, kind="stable")
    place = place[in_order]

    num_acts, num_told = len(acts), len(acts) + len(shown)
    user_ids, user = _coded([event.user_id for event in chain(acts, shown, users)])
    user_of_row = np.concatenate([user[:num_acts], np.repeat(user[num_acts:num_told], counts)])
    shown_ids = list(chain.from_iterable([event.items for event in shown]))
    acted_ids, new_ids = ([event.item_id for event in some] for some in (acts, items))
    item_ids, item = _coded([*acted_ids, *shown_ids, *new_ids])
    types, event_type = _coded(["", *[event.type for event in acts]])

    num_shown = len(place) - num_acts
    kinds = np.repeat(
        np.array([_INTERACTION, _FEEDBACK, _IMPRESSION], dtype=np.uint8),
        [len(clicks), len(answers), num_shown],
    )
    values = np.ones(len(place))
    values[:num_acts] = [event.value for event in acts]
    owner = user_of_row[in_order]
    event_ms, row_received_ms = told_ms[place], received_ms[place]
    rows = Rows(
        owner=owner,
        time_ms=effective_at_ms(event_ms, row_received_ms),
        units=units_of(values[in_order]),
        kind=kinds[in_order],
        event_type=np.append(event_type[1:], np.zeros(num_shown, dtype=np.int64))[in_order],
        types=types,
    )

    def told(n: int, code: int) -> Told:
        return _told(code, int(source[n]), records[n], events[n])  # type: ignore[arg-type]

    return BatchColumns(
        user_ids=user_ids,
        item_ids=item_ids,
        user=owner,
        item=item[: len(place)][in_order],
        rows=rows,
        known_ms=known_at_ms(event_ms, row_received_ms),
        source=source[place],
        offset=offset[place],
        user_events=list(map(told, of_type[UserEvent], user[num_told:].tolist())),
        item_events=list(map(told, of_type[ItemEvent], item[len(place) :].tolist())),
    )


def _int64s(values: list[int]) -> Int64s:
    return np.array(values, dtype=np.int64)


def _coded(names: list[str]) -> tuple[list[str], Int64s]:
    """Give the distinct names in order of appearance, and the place of each there."""
    place_of = {name: n for n, name in enumerate(dict.fromkeys(names))}
    codes = np.fromiter(map(place_of.__getitem__, names), np.int64, len(names))
    return list(place_of), codes


def _told(owner: int, source: int, record: Record, event: UserEvent | ItemEvent) -> Told:
    known_ms = record.timestamp_ms if record.timestamp_ms > 0 else event.event_time_ms
    effective_ms = min(event.event_time_ms, known_ms)
    return Told(owner, source, record.offset, effective_ms, known_ms, event)
