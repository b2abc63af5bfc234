"""How each kind of view takes in what it was not told yet: the one thing in which views differ.

``stream.py`` finds the entities of a batch, their stored states and which records are fresh; an
update turns old payloads and fresh records into new payloads and Feast's fields. All work on many
entities at once: ``N`` of them, records ``[R]`` with the owner of each, ``0 … N - 1``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.events.schema import ItemEvent, UserEvent
from recsys.features import names
from recsys.features.aggregate_state import (
    blobs_of_state,
    merge,
    state_of_blobs,
    state_of_rows,
    trim,
)
from recsys.features.aggregates import finalise, finalise_lists
from recsys.features.batch import Int64s, Ragged
from recsys.features.batch_columns import BatchColumns, Told
from recsys.features.event_rows import Rows
from recsys.features.framing import Framed
from recsys.features.history_codec import Interactions
from recsys.features.history_updates import added
from recsys.features.history_values import encoded_lists
from recsys.features.names import tokens_of
from recsys.features.packed_fields import Packed, pack, pack_same, pack_scalars
from recsys.features.quality.checker import ValueObserver
from recsys.features.time_layout import encode_timestamp, encode_timestamps
from recsys.features.value_layout import (
    encode_bool,
    encode_float32_lists,
    encode_float64,
    encode_int64,
    encode_int64_lists,
    encode_string,
    encode_strings,
)
from recsys.features.view import Feature, View

Fields = list[list[Packed]]
"""What each entity's hash is told besides the state."""


class Log(NamedTuple):
    """Records that tell entities something, ``[R]`` each."""

    owner: Int64s
    source: Int64s
    offset: Int64s
    place: Int64s
    """Of the row, or of the profile event, in the batch."""

    def some(self, rows: np.ndarray[tuple[int], np.dtype[np.bool_]], owner: Int64s) -> Log:
        """Give some of them; ``owner`` is already cut."""
        return Log(owner, self.source[rows], self.offset[rows], self.place[rows])


class Update(Protocol):
    """One view, kept up to date."""

    view: View

    def log(self, batch: BatchColumns, rows: Log) -> Log:
        """Give what tells this view something; ``rows`` are the group's rows of behaviour."""

    def apply(self, batch: BatchColumns, log: Log, stored: Framed) -> tuple[Framed, Fields]:
        """Give new payloads and times (positions are not looked at), and Feast's fields."""


@dataclass
class AggregateUpdate:
    """Windowed aggregates: tiles."""

    view: View
    serves: bool
    """Whether it is the version of the view that is read by Feast."""
    observer: ValueObserver | None = None
    """Is shown the values it serves, before they are written."""

    def log(self, batch: BatchColumns, rows: Log) -> Log:
        """Give every row: one of a column it has not still makes the entity known."""
        return rows

    def apply(self, batch: BatchColumns, log: Log, stored: Framed) -> tuple[Framed, Fields]:
        """Merge rows into tiles."""
        view, num_owners = self.view, len(stored.payloads)
        whole = len(log.place) == len(batch.rows.owner)
        rows: Rows = batch.rows.take(slice(None) if whole else log.place, log.owner)  # type: ignore[arg-type]
        newest = stored.newest_ms.copy()
        np.maximum.at(newest, log.owner, rows.time_ms)
        tiles = state_of_blobs(view, stored.payloads)
        tiles = trim(view, merge(view, tiles, state_of_rows(view, rows)), newest)
        framed = Framed(stored.positions, newest, blobs_of_state(view, tiles, num_owners))
        if not self.serves or not (view.stores_values or self.observer):
            return framed, []
        served = finalise(view, tiles, newest)
        if self.observer is not None:
            self.observer.observe(view, served)
        if not view.stores_values:
            return framed, []
        fields = [[scalars] for scalars in pack_scalars(view, served, newest)]
        if view.list_aggregates:
            for name, lists in finalise_lists(view, tiles, newest).items():
                _add_lists(fields, view.feature(name), lists)
        return framed, fields


def encode_lists(feature: Feature, lists: Ragged) -> list[bytes]:
    """Give a list aggregate as Feast's values."""
    encode: Callable[[Any, Int64s], list[bytes]] = (
        encode_int64_lists if feature.type == "int64_list" else encode_float32_lists
    )
    return encode(lists.values, lists.offsets)


def _add_lists(fields: Fields, feature: Feature, lists: Ragged) -> None:
    name = feature.field_bytes
    each = pack_same(name, encode_lists(feature, lists))
    for own, packed in zip(fields, each, strict=True):
        own.append(packed)


@dataclass
class HistoryUpdate:
    """The latest interactions and their items."""

    view: View
    serves: bool

    def log(self, batch: BatchColumns, rows: Log) -> Log:
        """Give the interactions."""
        acted = batch.rows.select("interaction")[rows.place]
        return rows if acted.all() else rows.some(acted, rows.owner[acted])

    def apply(self, batch: BatchColumns, log: Log, stored: Framed) -> tuple[Framed, Fields]:
        """Add interactions."""
        time_ms = batch.rows.time_ms[log.place]
        ids = [item_id.encode() for item_id in batch.item_ids]
        more = Interactions(log.owner, batch.item[log.place], time_ms, ids)
        payloads = added(stored.payloads, stored.newest_ms, more)
        newest = stored.newest_ms.copy()
        np.maximum.at(newest, log.owner, time_ms)
        framed = Framed(stored.positions, newest, payloads)
        if not self.serves or not self.view.stores_values:
            return framed, []
        columns = {
            self.view.feature(name).field_bytes: lists
            for name, lists in encoded_lists(payloads).items()
        }
        columns[self.view.timestamp_field] = encode_timestamps(newest)
        return framed, [
            [pack(dict(zip(columns, values, strict=True)))]
            for values in zip(*columns.values(), strict=True)
        ]


_WINNER = struct.Struct("<HQ")


@dataclass
class ProfileUpdate:
    """What the newest event says: by effective time, then by position in the log.

    The payload is the position of that event.
    """

    view: View
    serves: bool
    told: Callable[[BatchColumns], list[Told]]
    encode: Callable[[View, Told], dict[bytes, bytes]]

    def log(self, batch: BatchColumns, rows: Log) -> Log:
        """Give the profile events."""
        told = self.told(batch)
        columns = np.array([t[:3] for t in told], dtype=np.int64).reshape(-1, 3)
        return Log(columns[:, 0], columns[:, 1], columns[:, 2], np.arange(len(told)))

    def apply(self, batch: BatchColumns, log: Log, stored: Framed) -> tuple[Framed, Fields]:
        """Take the newest."""
        told = self.told(batch)
        best: list[tuple[int, int, int]] = [
            (at, *(_WINNER.unpack(payload) if payload else (0, 0)))
            for at, payload in zip(stored.newest_ms.tolist(), stored.payloads, strict=True)
        ]
        winners: dict[int, Told] = {}
        for owner, place in zip(log.owner.tolist(), log.place.tolist(), strict=True):
            this = told[place]
            order = (this.effective_ms, this.source, this.offset)
            if order >= best[owner]:
                best[owner] = order
                winners[owner] = this
        newest = np.array([at for at, _, _ in best], dtype=np.int64)
        payloads = [_WINNER.pack(source, offset) for _, source, offset in best]
        fields: Fields = [[] for _ in best]
        if self.serves:
            for owner, this in winners.items():
                stamp = {self.view.timestamp_field: encode_timestamp(this.effective_ms)}
                fields[owner].append(pack(self.encode(self.view, this) | stamp))
        return Framed(stored.positions, newest, payloads), fields


def update_of(view: View, *, serves: bool, observer: ValueObserver | None = None) -> Update:
    """Give what keeps ``view`` up to date."""
    if view.aggregates:
        return AggregateUpdate(view, serves, observer)
    if view.name == names.USER_HISTORY:
        return HistoryUpdate(view, serves)
    if view.name == names.USER_PROFILE:
        return ProfileUpdate(view, serves, lambda batch: batch.user_events, _user_profile)
    assert view.name == names.ITEM_PROFILE, view.name
    return ProfileUpdate(view, serves, lambda batch: batch.item_events, _item_profile)


def _user_profile(view: View, told: Told) -> dict[bytes, bytes]:
    assert isinstance(told.event, UserEvent)
    return {view.feature("tokens").field_bytes: encode_strings(tokens_of(told.event.attributes))}


def _item_profile(view: View, told: Told) -> dict[bytes, bytes]:
    event = told.event
    assert isinstance(event, ItemEvent)
    encoded = {
        "title": encode_string(event.title),
        "category": encode_string(event.category),
        "price": encode_float64(event.price),
        "born_ms": encode_int64(told.effective_ms if event.born_ms is None else event.born_ms),
        "available": encode_bool(event.available),
        "tokens": encode_strings(tokens_of(event.attributes)),
    }
    return {view.feature(name).field_bytes: value for name, value in encoded.items()}
