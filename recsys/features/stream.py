"""From events to features: applies batches of the log to the state of their entities.

Pure but for reading state it does not remember: given the same hashes and the same log it makes
the same writes, whatever the batches and however often it was stopped in between. Every view of
the plans goes the same way: the batch's entities are found, what each view was not told yet is
picked out by its positions (``positions.py``), merged into its state (``view_updates.py``), framed
(``framing.py``), and written with Feast's fields. One pass of a batch is a handful of array
operations over all its entities together, so that ten thousand events cost little more than ten.

Several plans may be kept at once: a new version of a view beside the one that serves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec
import numpy as np

from recsys.events.log import Record, TopicPartition
from recsys.events.schema import ItemEvent, LoggedEvent
from recsys.events.topics import Topics
from recsys.features.batch import Int64s
from recsys.features.batch_columns import BatchColumns, columns_of
from recsys.features.batch_entities import (
    Categories,
    Entities,
    categories_of,
    entities_of,
    with_identities,
)
from recsys.features.categories import Said, with_said
from recsys.features.duplicates import HORIZON, DuplicateWindow
from recsys.features.entities import (
    CATEGORIES_FIELD,
    EntityState,
    Ids,
    KeyGroup,
    groups_of,
    layout_of,
)
from recsys.features.framing import Framed, frame, unframe
from recsys.features.hashes import HashReader, Write
from recsys.features.key_layout import ending_of_user
from recsys.features.packed_fields import Packed, PackedFields, pack, pack_same
from recsys.features.plan import Plan
from recsys.features.positions import Positions, Sources
from recsys.features.quality.checker import ValueObserver
from recsys.features.runs import Run, runs_of
from recsys.features.view_updates import Log, Update

_to_json = msgspec.json.Encoder().encode
_Fields = dict[int, list[Packed]]
"""What to write, by place of the entity."""

MAX_REMEMBERED = 500_000
"""Entities kept in memory, some 1 KB each; beyond it all are forgotten and read again as needed."""


class FeatureStream:
    """Applies the log to the online store. Not thread-safe.

    What it remembers of a hash is what it wrote last: ``forget_entities`` those that were refused,
    and ``forget`` all when it is not known what was written.
    """

    def __init__(
        self,
        plan: Plan | Sequence[Plan],
        store: HashReader,
        topics: Topics,
        *,
        horizon: int = HORIZON,
        max_remembered: int = MAX_REMEMBERED,
        observer: ValueObserver | None = None,
    ) -> None:
        """Keep the views of one plan, or of several: the last one's are Feast's.

        ``observer`` is shown Feast's values of windowed aggregates, where they are final.
        """
        plans = [plan] if isinstance(plan, Plan) else list(plan)
        self.layout = layout_of(plans)
        """Which states its plans declare: changes with those of any stateful view."""
        self.declared = frozenset(layout_of(plans[-1:]).split("-"))
        """States of the last plan, which is the one in force."""
        self._plans = plans
        self._states: frozenset[str] | None = None
        self._store = store
        self._observer = observer
        self._sources = Sources(topics)
        self._horizon = horizon
        self._max_remembered = max_remembered
        self._windows: dict[TopicPartition, DuplicateWindow] = {}
        views = [view for one in plans for view in one.views if view.is_streamed]
        self._identity_fields = frozenset[str]().union(*(view.identity_fields for view in views))
        self._needs_category = "category" in self._identity_fields or any(
            "category" in view.join_keys for view in views
        )
        self.forget()

    def forget(self) -> None:
        """Drop everything remembered of the store; it is read again as needed."""
        self._groups = groups_of(self._plans, self._states, self._observer)

    def keep_only(self, states: Collection[str]) -> None:
        """Keep only these states (``View.state_name``) from now on; forgets the store."""
        self._states = frozenset(states)
        self.forget()

    def forget_entities(self, keys: Iterable[bytes]) -> None:
        """Drop what is remembered of these hashes: another wrote them."""
        gone = list(keys)
        for group in self._groups:
            group.forget(gone)

    def ending_of_user(self, user_id: str) -> bytes:
        """Give how the names of all hashes of a user end, alone or with an item or category."""
        return ending_of_user(user_id, self._plans[0].project)

    def forget_user(self, user_id: str) -> None:
        """Drop what is remembered of a user; event ids noted stay noted."""
        ending = self.ending_of_user(user_id)
        for group in self._groups:
            if "user_id" in group.join_keys:
                mine = [s.key for s in group.states.values() if s.key.endswith(ending)]
                group.forget(mine)

    def forget_duplicates(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Drop the event ids noted; note the records before the next one to apply again."""
        for at in list(self._windows if partitions is None else partitions):
            self._windows.pop(at, None)

    def note(self, record: Record, event: LoggedEvent) -> bool:
        """Note a record's event id; gives whether it is a duplicate.

        Before applying from a position on, note the records of the horizon before it.
        """
        if isinstance(event, ItemEvent):
            return False  # the newest one wins; twice the same changes nothing
        at = TopicPartition(record.topic, record.partition)
        return self._window(at).seen_before(event.event_id, record.offset)

    def _duplicates(self, run: Run[LoggedEvent]) -> set[int]:
        """Note all records of a run; gives the places of duplicates. See ``note``."""
        places: Sequence[int] = range(len(run))
        if ItemEvent in set(map(type, run.events)):
            places = [n for n in places if not isinstance(run.events[n], ItemEvent)]
        if not places:
            return set()
        event_ids = [run.events[n].event_id for n in places]
        offsets = [run.records[n].offset for n in places]
        return {places[n] for n in self._window(run.at).duplicates(event_ids, offsets)}

    def _window(self, at: TopicPartition) -> DuplicateWindow:
        window = self._windows.get(at)
        if window is None:
            window = self._windows[at] = DuplicateWindow(self._horizon)
        return window

    def apply(self, batch: Iterable[tuple[Record, LoggedEvent]]) -> tuple[list[Write], int]:
        """Apply records in log order; gives what to write, and how many were duplicates.

        What it gives must be written before the next batch is read from another position.
        """
        columns, num_duplicates = self.columns(runs_of(batch))
        return self.apply_columns(columns), num_duplicates

    def columns(self, runs: Sequence[Run[LoggedEvent]]) -> tuple[BatchColumns, int]:
        """Note records in log order; gives them as columns, and how many were duplicates."""
        fresh: list[Run[LoggedEvent]] = []
        num_duplicates = 0
        for run in runs:
            gone = self._duplicates(run)
            num_duplicates += len(gone)
            fresh.append(run.without(gone))
        return columns_of(fresh, self._sources), num_duplicates

    def apply_columns(self, batch: BatchColumns) -> list[Write]:
        """Apply events as columns, duplicates already removed; gives what to write.

        Of what was applied before, nothing; so it may be called again after some of the writes
        were refused and forgotten, and gives those anew.
        """
        if sum(len(group.states) for group in self._groups) > self._max_remembered:
            self.forget()
        items, *others = self._groups
        item_rows = Entities([(item_id,) for item_id in batch.item_ids], None, batch.item)
        item_states = self._load(items, item_rows.ids)
        fields = _tell_categories(batch, item_states)
        category: Categories | None = None
        if self._needs_category:
            category = categories_of(batch, item_states)
        batch = with_identities(batch, self._identity_fields, category)
        writes = _tell(items, batch, item_rows, item_states, fields)
        for group in others:
            found = entities_of(group, batch, category)
            writes += _tell(group, batch, found, self._load(group, found.ids), {})
        return writes

    def _load(self, group: KeyGroup, ids: Sequence[Ids]) -> list[EntityState]:
        remembered = group.states
        missing = [one for one in ids if one not in remembered]
        if missing:
            keys = group.keys_of(missing)
            found = self._store.read([(key, group.fields) for key in keys])
            group.remember(missing, keys, found)
        return [remembered[one] for one in ids]


def _tell_categories(batch: BatchColumns, items: Sequence[EntityState]) -> _Fields:
    said: dict[int, list[Said]] = {}
    for told in batch.item_events:
        if isinstance(told.event, ItemEvent):
            one = (told.effective_ms, told.known_ms, told.event.category)
            said.setdefault(told.owner, []).append(one)
    fields: _Fields = {}
    for owner, more in said.items():
        timeline = with_said(items[owner].timeline, more)
        if timeline != items[owner].timeline:
            items[owner].timeline = timeline
            fields[owner] = [pack({CATEGORIES_FIELD: _to_json(timeline)})]
    return fields


def _tell(
    group: KeyGroup,
    batch: BatchColumns,
    found: Entities,
    states: Sequence[EntityState],
    fields: _Fields,
) -> list[Write]:
    """Tell all views of a group what is fresh to them; gives one write for each entity told."""
    rows = found.log(batch)
    for place, update in enumerate(group.updates):
        _tell_view(place, update, batch, update.log(batch, rows), states, fields)
    writes: list[Write] = []
    for owner in sorted(fields):
        state = states[owner]
        writes.append(Write(state.key, PackedFields(fields[owner]), state.version))
        state.version += 1  # as it will be when the write is done
    return writes


def _tell_view(
    place: int,
    update: Update,
    batch: BatchColumns,
    log: Log,
    states: Sequence[EntityState],
    fields: _Fields,
) -> None:
    if not len(log.owner):
        return
    touched, local = _distinct(log.owner, len(states))
    stored = unframe([states[owner].blobs[place] for owner in touched.tolist()])
    positions = Positions(stored.positions, log.source)
    fresh = positions.fresh(local, log.source, log.offset)
    if not fresh.any():
        return
    positions.advance(local, log.source, log.offset)
    after = positions.blobs()
    if not fresh.all():
        some, local = _distinct(local[fresh], len(touched))
        touched, stored = touched[some], stored.take(some)
        after = [after[n] for n in some.tolist()]
        log = log.some(fresh, local)
    else:
        log = log._replace(owner=local)
    told, feast = update.apply(batch, log, stored)
    blobs = frame(Framed(after, told.newest_ms, told.payloads))
    each = pack_same(update.view.state_field, blobs)
    for n, (owner, blob, packed) in enumerate(zip(touched.tolist(), blobs, each, strict=True)):
        states[owner].blobs[place] = blob
        own = fields.get(owner)
        if own is None:
            own = fields[owner] = [packed]
        else:
            own.append(packed)
        if feast:
            own += feast[n]


def _distinct(owner: Int64s, count: int) -> tuple[Int64s, Int64s]:
    """Give the owners there are of ``0 … count - 1``, and the place of each row's among them."""
    present = np.zeros(count, dtype=np.bool_)
    present[owner] = True
    place = np.cumsum(present) - 1
    return np.flatnonzero(present), place[owner]
