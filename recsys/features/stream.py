"""From events to features: applies batches of the log to the state of their entities.

Pure but for reading state it does not remember: given the same hashes and the same log it makes
the same writes, whatever the batches and however often it was stopped in between. One pass of a
batch is a handful of array operations over all its entities together, so that ten thousand events
cost little more than ten.

An interaction counts in the category its item was in at that time. The worker reads item events
before behaviour, so an item's category is known; an item the log has not told of has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from recsys.events.log import Record, TopicPartition
from recsys.events.schema import Event, ItemEvent, UserEvent
from recsys.events.topics import Topics
from recsys.features.aggregates import (
    Rows,
    blobs_of_state,
    finalise,
    merge,
    state_of_blobs,
    state_of_rows,
    trim,
)
from recsys.features.batch import Bools, Int64s
from recsys.features.batch_columns import BatchColumns, Log, columns_of
from recsys.features.duplicates import HORIZON, DuplicateWindow
from recsys.features.entities import (
    CATEGORIES_FIELD,
    Entities,
    ItemState,
    Loaded,
    PairState,
    TiledState,
    UserState,
)
from recsys.features.hashes import HashReader, Write
from recsys.features.layout import (
    encode_bool,
    encode_float32_rows,
    encode_float64,
    encode_int64,
    encode_int64_lists,
    encode_string,
    encode_strings,
    encode_timestamp,
)
from recsys.features.names import identity_hash, tokens_of
from recsys.features.plan import Plan, View
from recsys.features.positions import ITEM_SOURCES, POSITIONS_FIELD, Positions
from recsys.features.recency import RecentEvents

S = TypeVar("S")
TState = TypeVar("TState")
_to_json = msgspec.json.Encoder().encode

MAX_REMEMBERED = 500_000
"""Entities kept in memory, some 1 KB each; beyond it all are forgotten and read again as needed."""


class FeatureStream:
    """Applies the log to the online store. Not thread-safe.

    Valid only while nobody else writes: hold the lease, and ``forget`` when it was lost.
    """

    def __init__(
        self,
        plan: Plan,
        store: HashReader,
        topics: Topics,
        *,
        horizon: int = HORIZON,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._entities = Entities(plan)
        self._store = store
        self._topics = topics
        self._horizon = horizon
        self._max_remembered = max_remembered
        self._windows: dict[TopicPartition, DuplicateWindow] = {}
        self.forget()

    @property
    def layout(self) -> str:
        """Layout of the state it writes: changes with the declarations of any stateful view."""
        return self._entities.layout

    def forget(self) -> None:
        """Drop everything remembered of the store; it is read again as needed."""
        self._users: dict[str, UserState] = {}
        self._items: dict[str, ItemState] = {}
        self._pairs: dict[tuple[str, str], PairState] = {}
        self._item_of_hash: dict[int, str] = {}
        self._hash_of_item: dict[str, int] = {}

    def forget_duplicates(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Drop the event ids noted; note the records before the next one to apply again."""
        for at in list(self._windows if partitions is None else partitions):
            self._windows.pop(at, None)

    def forget_entities(self, keys: Iterable[bytes]) -> None:
        """Drop what is remembered of these hashes: another wrote them."""
        gone = set(keys)
        remembered: tuple[dict[Any, Any], ...] = (self._users, self._items, self._pairs)
        for states in remembered:
            for id_ in [id_ for id_, state in states.items() if state.key in gone]:
                del states[id_]

    def note(self, record: Record, event: Event) -> bool:
        """Note a record's event id; gives whether it is a duplicate.

        Before applying from a position on, note the records of the horizon before it.
        """
        if isinstance(event, ItemEvent):
            return False  # the newest one wins; twice the same changes nothing
        at = TopicPartition(record.topic, record.partition)
        window = self._windows.get(at)
        if window is None:
            window = self._windows[at] = DuplicateWindow(self._horizon)
        return window.seen_before(event.event_id, record.offset)

    def apply(self, batch: Iterable[tuple[Record, Event]]) -> tuple[list[Write], int]:
        """Apply records in log order; gives what to write, and how many were duplicates.

        What it gives must be written before the next batch is read from another position.
        """
        columns, num_duplicates = self.columns(batch)
        return self.apply_columns(columns), num_duplicates

    def columns(self, batch: Iterable[tuple[Record, Event]]) -> tuple[BatchColumns, int]:
        """Note records in log order; gives them as columns, and how many were duplicates."""
        note = self.note
        everything = list(batch)
        fresh = [(record, event) for record, event in everything if not note(record, event)]
        return columns_of(fresh, _Sources(self._topics)), len(everything) - len(fresh)

    def apply_columns(self, batch: BatchColumns) -> list[Write]:
        """Apply events as columns, duplicates already removed; gives what to write."""
        if len(self._users) + len(self._items) + len(self._pairs) > self._max_remembered:
            self.forget()
        e = self._entities
        users = self._load(
            self._users, batch.user_ids, e.user_key, e.user_fields, self._decode_user
        )
        items = self._load(self._items, batch.item_ids, e.item_key, e.item_fields, e.item_state)
        writes = self._apply_items(batch, items)
        owner, some, pair_ids = self._pairs_of(batch, items)
        pairs = self._load(
            self._pairs, pair_ids, lambda pair: e.pair_key(*pair), e.pair_fields, e.pair_state
        )
        writes += self._apply_users(batch, users)
        writes += self._apply_pairs(batch.rows.take(some, owner), batch, some, pairs)
        return writes

    def _load(
        self,
        remembered: dict[S, TState],
        ids: Sequence[S],
        key_of: Callable[[S], bytes],
        fields: Sequence[bytes],
        decode: Callable[[bytes, Loaded], TState],
    ) -> list[TState]:
        missing = [id_ for id_ in ids if id_ not in remembered]
        if missing:
            keys = [key_of(id_) for id_ in missing]
            found = self._store.read([(key, fields) for key in keys])
            for id_, key, loaded in zip(missing, keys, found, strict=True):
                remembered[id_] = decode(key, loaded)
        return [remembered[id_] for id_ in ids]

    def _decode_user(self, key: bytes, loaded: Loaded) -> UserState:
        state = self._entities.user_state(key, loaded)
        for item_id in state.known_items or ():
            self._hash(item_id)
        state.known_items = None
        return state

    def _hash(self, item_id: str) -> int:
        value = self._hash_of_item.get(item_id)
        if value is None:
            value = self._hash_of_item[item_id] = identity_hash(item_id)
            self._item_of_hash[value] = item_id
        return value

    def _apply_items(self, batch: BatchColumns, items: list[ItemState]) -> list[Write]:
        log = batch.item_log()
        fresh, positions = _advance(items, log)
        num_rows = len(batch.item)
        mask = fresh[:num_rows]
        fields = self._activity(
            self._entities.item_activity, items, _some(batch.rows, batch.item, mask)
        )
        for (code, _, _, event), is_fresh in zip(batch.item_events, fresh[num_rows:], strict=True):
            if is_fresh:
                fields.setdefault(code, {}).update(self._item_profile(items[code], event))
        return _writes(items, fields, positions, log.owner[fresh])

    def _item_profile(self, item: ItemState, event: ItemEvent) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = {}
        timeline = [v for v in item.categories if v[0] != event.event_time_ms]
        timeline = sorted([*timeline, (event.event_time_ms, event.category)])
        item.categories = [
            v for n, v in enumerate(timeline) if n == 0 or v[1] != timeline[n - 1][1]
        ]
        fields[CATEGORIES_FIELD] = _to_json(item.categories)
        if event.event_time_ms >= item.profile_ms:
            item.profile_ms = event.event_time_ms
            born_ms = event.event_time_ms if event.born_ms is None else event.born_ms
            view = self._entities.item_profile
            encoded = {
                "title": encode_string(event.title),
                "category": encode_string(event.category),
                "price": encode_float64(event.price),
                "born_ms": encode_int64(born_ms),
                "available": encode_bool(event.available),
                "tokens": encode_strings(tokens_of(event.attributes)),
            }
            for name, value in encoded.items():
                fields[view.feature(name).field_bytes] = value
            fields[view.timestamp_field] = encode_timestamp(event.event_time_ms)
        return fields

    def _apply_users(self, batch: BatchColumns, users: list[UserState]) -> list[Write]:
        log = batch.user_log()
        fresh, positions = _advance(users, log)
        num_rows = len(batch.user)
        mask = fresh[:num_rows]
        rows = _some(batch.rows, batch.user, mask)
        fields = self._activity(self._entities.user_activity, users, rows)
        acted = rows.select("interaction")
        if acted.any():
            item = batch.item if mask.all() else batch.item[mask]
            self._history(
                users, rows.owner[acted], item[acted], rows.time_ms[acted], batch.item_ids, fields
            )
        for (code, _, _, event), is_fresh in zip(batch.user_events, fresh[num_rows:], strict=True):
            if is_fresh:
                fields.setdefault(code, {}).update(self._user_profile(users[code], event))
        return _writes(users, fields, positions, log.owner[fresh])

    def _user_profile(self, user: UserState, event: UserEvent) -> dict[bytes, bytes]:
        if event.event_time_ms < user.profile_ms:
            return {}
        user.profile_ms = event.event_time_ms
        view = self._entities.user_profile
        return {
            view.feature("tokens").field_bytes: encode_strings(tokens_of(event.attributes)),
            view.timestamp_field: encode_timestamp(event.event_time_ms),
        }

    def _history(
        self,
        users: list[UserState],
        owner: Int64s,
        item: Int64s,
        time_ms: Int64s,
        item_ids: list[str],
        fields: dict[int, dict[bytes, bytes]],
    ) -> None:
        codes, local = np.unique(owner, return_inverse=True)
        touched = [users[code] for code in codes.tolist()]
        hash_of_code = np.array([self._hash(item_id) for item_id in item_ids], dtype=np.int64)
        stored = RecentEvents.of_blobs([user.events for user in touched])
        events = stored.with_events(local.astype(np.int64), hash_of_code[item], time_ms)
        newest = np.array([user.events_newest_ms for user in touched], dtype=np.int64)
        np.maximum.at(newest, local, time_ms)
        recent = events.recent_items()
        counts = encode_int64_lists(recent.count.astype(np.int64), recent.offsets)
        last_ms = encode_int64_lists(recent.last_ms, recent.offsets)
        names = [self._item_of_hash[h] for h in recent.item.tolist()]
        ends = recent.offsets.tolist()
        view = self._entities.user_history
        counts_field = view.feature("counts").field_bytes
        items_field = view.feature("item_ids").field_bytes
        last_field = view.feature("last_ms").field_bytes
        for n, (code, user, blob, at) in enumerate(
            zip(codes.tolist(), touched, events.blobs(), newest.tolist(), strict=True)
        ):
            user.events = blob
            user.events_newest_ms = at
            fields[code].update(
                {
                    view.state_field: blob,
                    counts_field: counts[n],
                    items_field: encode_strings(names[ends[n] : ends[n + 1]]),
                    last_field: last_ms[n],
                    view.timestamp_field: encode_timestamp(at),
                }
            )

    def _pairs_of(
        self, batch: BatchColumns, items: list[ItemState]
    ) -> tuple[Int64s, Int64s, list[tuple[str, str]]]:
        """Give the pair of each row that has one, those rows, and the pairs."""
        categories: dict[str, int] = {}
        column = np.full(len(items), -1, dtype=np.int64)
        changing: list[int] = []
        for code, item in enumerate(items):
            if len(item.categories) == 1:
                category = item.categories[0][1]
                if category:
                    column[code] = categories.setdefault(category, len(categories))
            elif item.categories:
                changing.append(code)
        of_row = column[batch.item]
        for code in changing:
            for row in np.flatnonzero(batch.item == code).tolist():
                category = items[code].category_at(int(batch.rows.time_ms[row]))
                if category:
                    of_row[row] = categories.setdefault(category, len(categories))
        some = np.flatnonzero(of_row >= 0)
        width = max(len(categories), 1)
        pairs, owner = np.unique(batch.user[some] * width + of_row[some], return_inverse=True)
        labels = list(categories)
        ids = [(batch.user_ids[pair // width], labels[pair % width]) for pair in pairs.tolist()]
        return owner.astype(np.int64), some, ids

    def _apply_pairs(
        self, rows: Rows, batch: BatchColumns, some: Int64s, pairs: list[PairState]
    ) -> list[Write]:
        log = Log(rows.owner, batch.source[some], batch.offset[some])
        fresh, positions = _advance(pairs, log)
        fields = self._activity(self._entities.pair_activity, pairs, _some(rows, rows.owner, fresh))
        return _writes(pairs, fields, positions, log.owner[fresh])

    @staticmethod
    def _activity(
        view: View, states: Sequence[TiledState], rows: Rows
    ) -> dict[int, dict[bytes, bytes]]:
        """Merge rows into tiles; gives the fields of each state that has one, by place."""
        if not len(rows.owner):
            return {}
        codes, local = np.unique(rows.owner, return_inverse=True)
        touched = [states[code] for code in codes.tolist()]
        newest = np.array([state.newest_ms for state in touched], dtype=np.int64)
        np.maximum.at(newest, local, rows.time_ms)
        mine = Rows(
            local.astype(np.int64), rows.time_ms, rows.units, rows.kind, rows.event_type, rows.types
        )
        stored = state_of_blobs(view, [state.tiles for state in touched])
        tiles = trim(view, merge(view, stored, state_of_rows(view, mine)), newest)
        values = encode_float32_rows(finalise(view, tiles, newest))
        names = [feature.field_bytes for feature in view.features]
        fields: dict[int, dict[bytes, bytes]] = {}
        for code, state, blob, at, encoded in zip(
            codes.tolist(),
            touched,
            blobs_of_state(view, tiles, len(touched)),
            newest.tolist(),
            values,
            strict=True,
        ):
            state.tiles = blob
            state.newest_ms = at
            own = fields[code] = dict(zip(names, encoded, strict=True))
            own[view.state_field] = blob
            own[view.timestamp_field] = encode_timestamp(at)
        return fields


class _Sources(dict[tuple[str, int], int]):
    """Numbers the partitions of the two topics."""

    def __init__(self, topics: Topics) -> None:
        super().__init__()
        self._bases = {topics.behaviour: 0, topics.items: ITEM_SOURCES}

    def __missing__(self, at: tuple[str, int]) -> int:
        self[at] = self._bases[at[0]] + at[1]
        return self[at]


def _advance(states: Sequence[TiledState], log: Log) -> tuple[Bools, list[bytes]]:
    """Give which records are fresh to their entities, and the entities' positions after them."""
    positions = Positions([state.positions for state in states], log.source)
    fresh = positions.fresh(log.owner, log.source, log.offset)
    positions.advance(log.owner, log.source, log.offset)
    return fresh, positions.blobs()


def _some(rows: Rows, owner: Int64s, mask: Bools) -> Rows:
    if mask.all():
        return rows.take(slice(None), owner)  # type: ignore[arg-type]
    return rows.take(mask, owner[mask])


def _writes(
    states: Sequence[TiledState],
    fields: dict[int, dict[bytes, bytes]],
    positions: list[bytes],
    fresh_owners: Int64s,
) -> list[Write]:
    """Give one write for each entity that a fresh record told something."""
    writes: list[Write] = []
    for code in np.unique(fresh_owners).tolist():
        state = states[code]
        state.positions = positions[code]
        own = fields.get(code, {})
        own[POSITIONS_FIELD] = positions[code]
        writes.append(Write(state.key, own, state.version))
        state.version += 1
    return writes
