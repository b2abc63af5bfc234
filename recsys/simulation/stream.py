"""The log as a stream of typed events in event-time order, from any instant to any other.

Sessions are played chunk by chunk into columns; what happens after the end of a chunk waits in
columns too, never longer than ``WorldConfig.horizon_ms``. Order is total: time, then kind, then
session, then place, so that it cannot depend on how the stream is cut.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.events.schema import Event
from recsys.simulation.columns import (
    ITEM,
    USER,
    WITHDRAWAL,
    Columns,
    announcement_columns,
    concatenate,
    page_columns,
)
from recsys.simulation.config import WorldConfig
from recsys.simulation.event_maker import EventMaker
from recsys.simulation.items import Items
from recsys.simulation.sessions import Sessions, Visits
from recsys.simulation.users import Users

_BATCH = 1024
"""Sessions played together: bounds memory and shares the cost of each NumPy call."""


class EventStream:
    """Streams the log of one world."""

    def __init__(
        self,
        config: WorldConfig,
        users: Users,
        items: Items,
        sessions: Sessions,
        maker: EventMaker,
    ) -> None:
        self._config = config
        self._users = users
        self._items = items
        self._sessions = sessions
        self._maker = maker

    def events(self, start_ms: int, end_ms: int) -> Iterator[Event]:
        """Give the events with ``start_ms <= event_time_ms < end_ms``, in order."""
        config, size = self._config, self._sessions.chunk_ms
        start_ms = max(start_ms, config.start_ms - config.prelude_ms)
        end_ms = min(end_ms, config.end_ms + config.horizon_ms)
        if end_ms <= start_ms:
            return
        first = (start_ms - config.horizon_ms - config.start_ms) // size
        first = max(first, -config.prelude_ms // size)  # nothing happens before
        waiting = concatenate(self._announcements(start_ms, start_ms))  # none yet
        for chunk in range(first, (end_ms - 1 - config.start_ms) // size + 1):
            low = max(start_ms, config.start_ms + chunk * size)
            high = min(end_ms, config.start_ms + (chunk + 1) * size)
            parts = [waiting, *self._play(self._sessions.visits(chunk))]
            if high <= low:  # only here for what it does after start_ms
                columns = concatenate(parts)
                waiting = columns.take(np.flatnonzero(columns.time_ms >= start_ms))
                continue
            columns = concatenate(parts + self._announcements(low, high))
            now = (columns.time_ms >= low) & (columns.time_ms < high)
            waiting = columns.take(np.flatnonzero(columns.time_ms >= high))
            yield from self._maker.make(columns.take(np.flatnonzero(now)))

    def _play(self, visits: Visits) -> Iterator[Columns]:
        for first in range(0, len(visits.user), _BATCH):
            batch = visits.rows(slice(first, first + _BATCH))
            for page in self._sessions.play(batch):
                yield from page_columns(page, batch.rows(page.rows), self._items.price)

    def _announcements(self, low: int, high: int) -> list[Columns]:
        items, users, length = self._items, self._users, self._config.list_length
        born, gone = items.announced_between(low, high), items.withdrawn_between(low, high)
        new = users.signed_up_between(low, high)
        return [
            announcement_columns(ITEM, items.announced_ms[born], length, item=born),
            announcement_columns(WITHDRAWAL, items.withdrawn_ms[gone], length, item=gone),
            announcement_columns(USER, users.sign_up_ms(new), length, user=new),
        ]
