"""The log as a stream of typed events in event-time order, from any instant to any other.

Sessions are played chunk by chunk into columns; what happens after the end of a chunk waits in
columns too, never longer than ``WorldConfig.horizon_ms``. Structs are made at the very end. Order
is total: time, then kind, then session, then place, so that it cannot depend on how the stream is
cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Floats, Ints
from recsys.simulation.item_text import Description, ItemText
from recsys.simulation.items import Items
from recsys.simulation.names import Names
from recsys.simulation.policy import POLICY_NAME
from recsys.simulation.sessions import Page, Sessions, Visits
from recsys.simulation.users import COUNTRIES, DEVICES, Users

_BATCH = 1024
"""Sessions played together: bounds memory and shares the cost of each NumPy call."""

_ITEM, _WITHDRAWAL, _USER, _IMPRESSION = range(4)
ACTIONS: tuple[tuple[str, str], ...] = (
    ("click", "c"), ("long_view", "l"), ("add_to_cart", "a"), ("purchase", "p"),
    ("like", "k"), ("not_interested", "n"),
)  # fmt: skip
"""Types of interaction and feedback, and the letter that stands for them in event ids."""
_FIRST_ACTION = 4
_LIKE = 4


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Events not yet made, one row each; ``slate`` points into the two list columns."""

    time_ms: Ints
    kind: Ints
    chunk: Ints
    number: Ints
    page: Ints
    position: Ints
    user: Ints
    item: Ints
    value: Floats
    context: Ints
    slate: Ints
    slate_items: Ints
    slate_propensities: Floats

    def take(self, rows: Ints) -> Columns:
        """Give some rows, with only the lists they point to."""
        values = {name: getattr(self, name)[rows] for name in _ROW_COLUMNS}
        used = values["slate"] >= 0
        lists = values["slate"][used]
        values["slate"] = np.where(used, np.cumsum(used) - 1, -1)
        return Columns(
            **values,
            slate_items=self.slate_items[lists],
            slate_propensities=self.slate_propensities[lists],
        )


_ROW_COLUMNS = tuple(f.name for f in fields(Columns) if not f.name.startswith("slate_"))


def _concatenate(parts: list[Columns]) -> Columns:
    offsets = np.cumsum([0] + [len(part.slate_items) for part in parts])
    values = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _ROW_COLUMNS
    }
    values["slate"] = np.concatenate(
        [
            np.where(part.slate >= 0, part.slate + offset, -1)
            for part, offset in zip(parts, offsets, strict=False)
        ]
    )
    return Columns(
        **values,
        slate_items=np.concatenate([part.slate_items for part in parts]),
        slate_propensities=np.concatenate([part.slate_propensities for part in parts]),
    )


class EventStream:
    """Makes the events of one world."""

    def __init__(
        self,
        config: WorldConfig,
        names: Names,
        users: Users,
        items: Items,
        sessions: Sessions,
    ) -> None:
        self._config = config
        self._users = users
        self._items = items
        self._sessions = sessions
        self._text = ItemText(config, items)
        self._names = names
        self._tag = names.tag
        self._contexts = [
            {"country": country, "device": device}
            for country, _, _ in COUNTRIES
            for device in DEVICES
        ]

    def events(self, start_ms: int, end_ms: int) -> Iterator[Event]:
        """Give the events with ``start_ms <= event_time_ms < end_ms``, in order."""
        config, size = self._config, self._sessions.chunk_ms
        start_ms = max(start_ms, config.start_ms - config.prelude_ms)
        end_ms = min(end_ms, config.end_ms + config.horizon_ms)
        if end_ms <= start_ms:
            return
        first = (start_ms - config.horizon_ms - config.start_ms) // size
        first = max(first, -config.prelude_ms // size)  # nothing happens before
        waiting = self._empty()
        for chunk in range(first, (end_ms - 1 - config.start_ms) // size + 1):
            low = max(start_ms, config.start_ms + chunk * size)
            high = min(end_ms, config.start_ms + (chunk + 1) * size)
            parts = [waiting, *self._play(self._sessions.visits(chunk))]
            if high <= low:  # only here for what it does after start_ms
                columns = _concatenate(parts)
                waiting = columns.take(np.flatnonzero(columns.time_ms >= start_ms))
                continue
            columns = _concatenate(parts + self._announcements(low, high))
            now = (columns.time_ms >= low) & (columns.time_ms < high)
            waiting = columns.take(np.flatnonzero(columns.time_ms >= high))
            yield from self.make(columns.take(np.flatnonzero(now)))

    # --- columns --------------------------------------------------------------------------------
    def _play(self, visits: Visits) -> Iterator[Columns]:
        for first in range(0, len(visits.user), _BATCH):
            batch = visits.rows(slice(first, first + _BATCH))
            for page in self._sessions.play(batch):
                yield from self.page_columns(page, batch.rows(page.rows))

    def page_columns(
        self, page: Page, visits: Visits, first_position: int = 0
    ) -> Iterator[Columns]:
        """Give the rows of one page: its impressions, then each type of action."""
        slate, reaction = page.slates.items, page.reaction
        context = page.profiles.country * len(DEVICES) + page.profiles.device
        columns = {
            "chunk": visits.chunk, "number": visits.number, "user": visits.user,
            "context": context,
        }  # fmt: skip
        shown = np.flatnonzero((slate >= 0).any(axis=1))
        nothing = np.full(len(shown), -1)
        yield Columns(
            time_ms=page.time_ms[shown],
            kind=np.full(len(shown), _IMPRESSION),
            page=np.full(len(shown), page.page),
            position=np.full(len(shown), first_position),
            item=nothing,
            value=np.ones(len(shown)),
            slate=np.arange(len(shown)),
            slate_items=slate[shown],
            slate_propensities=page.slates.propensities[shown],
            **{name: column[shown] for name, column in columns.items()},
        )
        r = reaction
        dwell_s = (r.view_end_ms - r.click_ms) / 1_000.0
        one, price = np.ones(slate.shape), self._items.price[slate]
        actions = (
            (r.click, r.click_ms, one),
            (r.long_view, r.view_end_ms, dwell_s),
            (r.add_to_cart, r.view_end_ms + 2_000, one),
            (r.purchase, r.purchase_ms, price),
            (r.like, r.view_end_ms + 1_000, one),
            (r.not_interested, r.look_ms + 700, one),
        )
        for action, (happened, time_ms, value) in enumerate(actions):
            row, place = np.nonzero(happened)
            if len(row):
                yield Columns(
                    time_ms=time_ms[row, place],
                    kind=np.full(len(row), _FIRST_ACTION + action),
                    page=np.full(len(row), page.page),
                    position=first_position + place,
                    item=slate[row, place],
                    value=value[row, place],
                    slate=np.full(len(row), -1),
                    slate_items=slate[:0],
                    slate_propensities=page.slates.propensities[:0],
                    **{name: column[row] for name, column in columns.items()},
                )

    def _announcements(self, low: int, high: int) -> list[Columns]:
        items, users = self._items, self._users
        born, gone = items.announced_between(low, high), items.withdrawn_between(low, high)
        new = users.signed_up_between(low, high)
        return [
            self._bare(_ITEM, items.announced_ms[born], item=born),
            self._bare(_WITHDRAWAL, items.withdrawn_ms[gone], item=gone),
            self._bare(_USER, users.sign_up_ms(new), user=new),
        ]

    def _bare(
        self, kind: int, time_ms: Ints, *, item: Ints | None = None, user: Ints | None = None
    ) -> Columns:
        size = len(time_ms)
        zero = np.zeros(size, dtype=np.int64)
        length = self._config.list_length
        return Columns(
            time_ms=time_ms,
            kind=zero + kind,
            chunk=zero,
            number=zero,
            page=zero,
            position=zero,
            user=zero - 1 if user is None else user,
            item=zero - 1 if item is None else item,
            value=np.ones(size),
            context=zero,
            slate=zero - 1,
            slate_items=np.empty((0, length), dtype=np.int64),
            slate_propensities=np.empty((0, length)),
        )

    def _empty(self) -> Columns:
        return self._bare(_ITEM, np.empty(0, dtype=np.int64))

    def live(self, page: Page, request_id: str, first_position: int, policy: str) -> list[Event]:
        """Give the events of one list that a live system showed."""
        zero = np.zeros(1, dtype=np.int64)
        visits = Visits(chunk=zero, number=zero, user=page.profiles.index, start_ms=page.time_ms)
        columns = _concatenate(list(self.page_columns(page, visits, first_position)))
        return self.make(columns, live_request_id=request_id, policy=policy)

    # --- structs --------------------------------------------------------------------------------
    def make(
        self,
        columns: Columns,
        *,
        live_request_id: str | None = None,
        policy: str = POLICY_NAME,
    ) -> list[Event]:
        """Make the events of some columns, in order; a live list has a request id of its own."""
        c = columns
        order = np.lexsort(
            (c.position, c.item, c.user, c.page, c.number, c.chunk, c.kind, c.time_ms)
        )
        c = c.take(order)
        ids = self._items.ids
        item_ids = ids[c.item].tolist()
        slates = ids[c.slate_items].tolist()
        sizes = (c.slate_items >= 0).sum(axis=1).tolist()
        propensities = c.slate_propensities.tolist()
        tag, width, contexts = self._tag, self._names.user_width, self._contexts
        attributes = iter(self._users.attributes(c.user[c.kind == _USER]))
        texts = iter(self._text.compose(c.item[c.kind < _USER]))
        events: list[Event] = []
        add = events.append
        rows = zip(
            c.time_ms.tolist(), c.kind.tolist(), c.chunk.tolist(), c.number.tolist(),
            c.page.tolist(), c.position.tolist(), c.user.tolist(), c.item.tolist(),
            c.value.tolist(), c.context.tolist(), c.slate.tolist(), item_ids, strict=True,
        )  # fmt: skip
        for (
            time_ms,
            kind,
            chunk,
            number,
            page,
            place,
            user,
            item,
            value,
            about,
            at,
            item_id,
        ) in rows:
            if kind >= _IMPRESSION:
                request_id = live_request_id or f"{tag}.{chunk:x}.{number:x}.{page}"
                user_id = f"u{user:0{width}d}"
                if kind == _IMPRESSION:
                    size = sizes[at]
                    add(
                        ImpressionEvent(
                            event_id=f"{request_id}.{place}i",
                            event_time_ms=time_ms,
                            user_id=user_id,
                            request_id=request_id,
                            items=slates[at][:size],
                            first_position=place,
                            propensities=propensities[at][:size],
                            policy=policy,
                            context=dict(contexts[about]),
                        )
                    )
                    continue
                name, letter = ACTIONS[kind - _FIRST_ACTION]
                make = FeedbackEvent if kind >= _FIRST_ACTION + _LIKE else InteractionEvent
                add(
                    make(
                        event_id=f"{request_id}.{place}{letter}",
                        event_time_ms=time_ms,
                        user_id=user_id,
                        item_id=item_id,
                        type=name,
                        value=value,
                        request_id=request_id,
                        position=place,
                        context=dict(contexts[about]),
                    )
                )
            elif kind == _USER:
                add(
                    UserEvent(
                        event_id=f"{tag}.u.{user}",
                        event_time_ms=time_ms,
                        user_id=f"u{user:0{width}d}",
                        attributes={**next(attributes)},
                    )
                )
            else:
                add(self._item_event(item, item_id, time_ms, kind == _ITEM, next(texts)))
        return events

    def _item_event(
        self, item: int, item_id: str, time_ms: int, on_offer: bool, words: Description
    ) -> ItemEvent:
        return ItemEvent(
            event_id=f"{self._tag}.{'i' if on_offer else 'w'}.{item}",
            event_time_ms=time_ms,
            item_id=item_id,
            title=words.title,
            text=words.text,
            category=words.category,
            price=float(self._items.price[item]),
            born_ms=int(self._items.born_ms[item]),
            available=on_offer,
            attributes={"style": words.style},
        )
