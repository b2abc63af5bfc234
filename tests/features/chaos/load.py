"""Events sent without pause while servers and workers come and go; only acknowledged ones count."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np

from recsys.clock import HOUR_MS, now_ms
from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.codec import encode
from recsys.events.kafka import connect_writer
from recsys.events.log import EventWriter
from recsys.events.schema import Event, FeedbackEvent, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.events.topics import Topics
from recsys.settings import Settings

NUM_USERS, NUM_ITEMS = 200, 40
_SLICE = 20
_PAUSE_S = 0.05


def item_events() -> list[ItemEvent]:
    """Give what is known of every item before the first event of a user."""
    return [
        ItemEvent(
            event_id=f"item-{k}", event_time_ms=now_ms() - 30 * 24 * HOUR_MS, item_id=f"i{k}",
            title=f"Item {k}", category=("tea", "mugs", "")[k % 3],
        )
        for k in range(NUM_ITEMS)
    ]  # fmt: skip


class Load:
    """A thread that sends slices of events, each again until all of it is acknowledged."""

    def __init__(self, settings: Settings, endpoints: Endpoints, rng: np.random.Generator) -> None:
        self._settings, self._endpoints, self._rng = settings, endpoints, rng
        self._topics = Topics(namespace=settings.namespace)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._sent: list[Event] = []
        self.acknowledged: set[str] = set()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Send no more; returns when what was handed over is acknowledged."""
        self._end.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "the log took no events for two minutes"

    def _run(self) -> None:
        number = 0
        writer: EventWriter | None = None
        pending: list[Event] = list(item_events())
        while pending or not self._end.is_set():
            if not pending:
                pending = [self._event(number + k) for k in range(_SLICE)]
                number += _SLICE
            try:
                if writer is None:
                    writer = connect_writer(self._settings, self._endpoints)
                self._send(writer, pending)
            except ServerError:
                if writer is not None:
                    with contextlib.suppress(ServerError):
                        writer.close()
                    writer = None
                continue  # which of them arrived is unknown: all again
            self.acknowledged |= {event.event_id for event in pending}
            pending = []
            time.sleep(_PAUSE_S)
        if writer is not None:
            writer.close()

    def _send(self, writer: EventWriter, events: list[Event]) -> None:
        records = []
        for event in events:
            topic, key = self._topics.route(event)
            records.append((topic, key, encode(event)))
        if self._rng.random() < 0.02:
            records.append((self._topics.behaviour, b"u0", b'{"kind": "interaction"}'))
        if self._rng.random() < 0.02:
            later = records[-1][2].replace(b'"schema_version":1', b'"schema_version":99')
            records.append((self._topics.behaviour, b"u0", later))
        writer.append_all(records, timeout_s=10.0)

    def _event(self, number: int) -> Event:
        rng = self._rng
        if self._sent and rng.random() < 0.03:
            return self._sent[int(rng.integers(0, len(self._sent)))]  # sent once more
        at_ms = now_ms() - int(rng.exponential(2 * HOUR_MS) if rng.random() < 0.2 else 0)
        user, item = f"u{rng.integers(0, NUM_USERS)}", f"i{rng.integers(0, NUM_ITEMS)}"
        name = f"e{number}"
        event: Event
        match int(rng.integers(0, 20)):
            case 0:
                event = ItemEvent(
                    event_id=name, event_time_ms=at_ms, item_id=item, title=f"Item {number}",
                    category=str(rng.choice(["tea", "mugs", "pots", ""])), price=float(number),
                )  # fmt: skip
            case 1 | 2 | 3:
                shown = [f"i{k}" for k in rng.integers(0, NUM_ITEMS, 3)]
                event = ImpressionEvent(
                    event_id=name, event_time_ms=at_ms, user_id=user, request_id=name, items=shown
                )
            case 4:
                event = FeedbackEvent(
                    event_id=name, event_time_ms=at_ms, user_id=user, item_id=item, type="like"
                )
            case _:
                event = InteractionEvent(
                    event_id=name, event_time_ms=at_ms, user_id=user, item_id=item,
                    type=("click", "purchase")[number % 2], value=float(rng.normal(5, 50)),
                )  # fmt: skip
        self._sent = [*self._sent[-500:], event]
        return event
