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
    Ids,
    KeyGroup,
    groups_of,
    layout_of,
)
from recsys.features.framing import Framed, frame, unframe
from recsys.features.hashes import HashReader
from recsys.features.key_layout import ending_of_user
from recsys.features.packed_fields import columns_of_same, pack_one
from recsys.features.plan import Plan
from recsys.features.positions import Positions, Sources
from recsys.features.quality.checker import ValueObserver
from recsys.features.runs import Run, runs_of
from recsys.features.view_updates import Fields, Log, Update
from recsys.features.write_columns import WriteColumns

_to_json = msgspec.json.Encoder().encode

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
                group.forget([key for key in group.keys if key.endswith(ending)])

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

    def apply(self, batch: Iterable[tuple[Record, LoggedEvent]]) -> tuple[WriteColumns, int]:
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

    def apply_columns(self, batch: BatchColumns) -> WriteColumns:
        """Apply events as columns, duplicates already removed; gives what to write.

        Of what was applied before, nothing; so it may be called again after some of the writes
        were refused and forgotten, and gives those anew.
        """
        if sum(len(group.keys) for group in self._groups) > self._max_remembered:
            self.forget()
        items, *others = self._groups
        item_rows = Entities(batch.item_ids, None, batch.item)
        item_places = self._load(items, item_rows.ids)
        fields = _Fields(len(item_places))
        _tell_categories(batch, items, item_places, fields)
        category: Categories | None = None
        if self._needs_category:
            category = categories_of(batch, [items.timelines[place] for place in item_places])
        batch = with_identities(batch, self._identity_fields, category)
        writes = _tell(items, batch, item_rows, item_places, fields)
        for group in others:
            found = entities_of(group, batch, category)
            places = self._load(group, found.ids)
            writes.extend(_tell(group, batch, found, places, _Fields(len(places))))
        return writes

    def _load(self, group: KeyGroup, ids: Sequence[Ids]) -> list[int]:
        """Give the place of each entity among those that are remembered; reads the others."""
        remembered = group.place_of
        missing = [one for one in ids if one not in remembered]
        if missing:
            keys = group.keys_of(missing)
            found = self._store.read([(key, group.fields) for key in keys])
            group.remember(missing, keys, found)
        return [remembered[one] for one in ids]


class _Fields:
    """What to write to each of some entities, in one piece: widths and bytes (``Packed``)."""

    def __init__(self, count: int) -> None:
        self.widths = [b""] * count
        """Empty where there is nothing to write."""
        self.data = [b""] * count
        self._is_empty = True

    def add(self, owners: list[int], widths: list[bytes], data: list[bytes]) -> None:
        """Add a piece to each of some entities, given in ascending order."""
        if self._is_empty and len(owners) == len(self.widths):
            self.widths, self.data = widths, data
        else:
            for owner, own, one in zip(owners, widths, data, strict=True):
                self.widths[owner] += own
                self.data[owner] += one
        self._is_empty = self._is_empty and not owners


def _tell_categories(
    batch: BatchColumns, items: KeyGroup, places: Sequence[int], fields: _Fields
) -> None:
    said: dict[int, list[Said]] = {}
    for told in batch.item_events:
        if isinstance(told.event, ItemEvent):
            one = (told.effective_ms, told.known_ms, told.event.category)
            said.setdefault(told.owner, []).append(one)
    for owner, more in sorted(said.items()):
        before = items.timelines[places[owner]]
        timeline = with_said(before, more)
        if timeline != before:
            items.timelines[places[owner]] = timeline
            widths, data = pack_one(CATEGORIES_FIELD, _to_json(timeline))
            fields.add([owner], [widths], [data])


def _tell(
    group: KeyGroup,
    batch: BatchColumns,
    found: Entities,
    places: list[int],
    fields: _Fields,
) -> WriteColumns:
    """Tell all views of a group what is fresh to them; gives one write for each entity told."""
    rows = found.log(batch)
    for update, blobs in zip(group.updates, group.blobs, strict=True):
        _tell_view(update, blobs, batch, update.log(batch, rows), places, fields)
    every = WriteColumns(
        [group.keys[place] for place in places],
        [group.versions[place] for place in places],
        fields.widths,
        fields.data,
    )
    if not all(fields.widths):
        told = [n for n, widths in enumerate(fields.widths) if widths]
        every, places = every.at(told), [places[n] for n in told]
    for place, version in zip(places, every.versions, strict=True):
        group.versions[place] = version + 1  # as it will be when the write is done
    return every


def _tell_view(
    update: Update,
    blobs: list[bytes | None],
    batch: BatchColumns,
    log: Log,
    places: Sequence[int],
    fields: _Fields,
) -> None:
    """Tell one view, whose remembered states are ``blobs``."""
    if not len(log.owner):
        return
    touched, local = _distinct(log.owner, len(places))
    stored = unframe([blobs[places[owner]] for owner in touched.tolist()])
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
    framed = frame(Framed(after, told.newest_ms, told.payloads))
    owners = touched.tolist()
    for owner, blob in zip(owners, framed, strict=True):
        blobs[places[owner]] = blob
    fields.add(owners, *columns_of_same(update.view.state_field, framed))
    if feast:
        fields.add(owners, *(list(map(b"".join, each)) for each in _sides(feast)))


def _sides(fields: Fields) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """Give the widths of each entity's pieces, and their bytes."""
    return (
        [[widths for widths, _ in own] for own in fields],
        [[data for _, data in own] for own in fields],
    )


def _distinct(owner: Int64s, count: int) -> tuple[Int64s, Int64s]:
    """Give the owners there are of ``0 … count - 1``, and the place of each row's among them."""
    present = np.zeros(count, dtype=np.bool_)
    present[owner] = True
    place = np.cumsum(present) - 1
    return np.flatnonzero(present), place[owner]
