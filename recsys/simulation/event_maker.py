"""Columns become typed events, with ids that say where they come from.

``<tag>.<chunk>.<number>.<page>`` names a request of the log: world, session, page. Its impression
and actions add their position and a letter.
"""

from __future__ import annotations

import numpy as np

from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.simulation.columns import (
    ACTIONS,
    FIRST_ACTION,
    FIRST_FEEDBACK,
    IMPRESSION,
    ITEM,
    USER,
    Columns,
    concatenate,
    page_columns,
)
from recsys.simulation.config import WorldConfig
from recsys.simulation.item_text import Description, ItemText
from recsys.simulation.items import Items
from recsys.simulation.names import Names
from recsys.simulation.policy import POLICY_NAME
from recsys.simulation.sessions import Page, Visits
from recsys.simulation.users import COUNTRIES, DEVICES, Users


class EventMaker:
    """Makes the events of one world."""

    def __init__(self, config: WorldConfig, names: Names, users: Users, items: Items) -> None:
        self._users = users
        self._items = items
        self._text = ItemText(config, items)
        self._user_width = names.user_width
        self._tag = names.tag
        self._contexts = [
            {"country": country, "device": device}
            for country, _, _ in COUNTRIES
            for device in DEVICES
        ]

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
        tag, width, contexts = self._tag, self._user_width, self._contexts
        attributes = iter(self._users.attributes(c.user[c.kind == USER]))
        texts = iter(self._text.compose(c.item[c.kind < USER]))
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
            if kind >= IMPRESSION:
                request_id = live_request_id or f"{tag}.{chunk:x}.{number:x}.{page}"
                user_id = f"u{user:0{width}d}"
                if kind == IMPRESSION:
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
                name, letter = ACTIONS[kind - FIRST_ACTION]
                make = FeedbackEvent if kind >= FIRST_FEEDBACK else InteractionEvent
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
            elif kind == USER:
                add(
                    UserEvent(
                        event_id=f"{tag}.u.{user}",
                        event_time_ms=time_ms,
                        user_id=f"u{user:0{width}d}",
                        attributes={**next(attributes)},
                    )
                )
            else:
                add(self._item_event(item, item_id, time_ms, kind == ITEM, next(texts)))
        return events

    def live(self, page: Page, request_id: str, first_position: int, policy: str) -> list[Event]:
        """Give the events of one list that a live system showed."""
        zero = np.zeros(1, dtype=np.int64)
        visits = Visits(chunk=zero, number=zero, user=page.profiles.index, start_ms=page.time_ms)
        columns = concatenate(list(page_columns(page, visits, self._items.price, first_position)))
        return self.make(columns, live_request_id=request_id, policy=policy)

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
