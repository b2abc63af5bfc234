"""How soon an event is servable, measured from outside: tracers sent, then read as serving reads.

For each view one event that it is made of goes through Kafka and the stream worker into Redis, to
entities that only tracers have (``events/tracers.py``). It is servable when a reader finds a state
whose newest event is it. The worker's own histograms cannot see that it stands still; this can.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recsys.clock import now_ms
from recsys.events.codec import encode
from recsys.events.kafka.writer import KafkaEventWriter
from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.events.topics import Topics
from recsys.events.tracers import PREFIX
from recsys.features import names
from recsys.features.entities import streamed_views
from recsys.features.framing import unframe
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.redis_hashes import RedisHashes
from recsys.features.time_layout import decode_timestamp
from recsys.features.view import View
from recsys.telemetry import (
    PROBE_APPEND_TO_SERVABLE_SECONDS,
    PROBE_EVENT_TO_SERVABLE_SECONDS,
    PROBE_LOST,
)

LANES = 16
"""Users and items of each view that tracers take turns with: spread over the partitions, and few
enough that what they leave in the store stays small."""
_POLL_S = 0.001
"""Pause between two reads; what is measured is too long by at most this and a round trip."""
_CATEGORY = PREFIX + "category"


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a probe goes about it."""

    timeout_s: float = 10.0
    """A tracer that is not servable by then is lost."""


class Trace(NamedTuple):
    """What became of one tracer."""

    view: str
    since_event_s: float | None
    """From the event's own time until it was read; ``None`` when it was lost."""
    since_append_s: float | None
    """From the log's receipt."""


class _Sent(NamedTuple):
    view: View
    key: bytes
    event_ms: int
    append_ms: int

    @property
    def counts_at_ms(self) -> int:
        return min(self.event_ms, self.append_ms)


class Probe:
    """Sends tracers, one for each view in a round. Not thread-safe."""

    def __init__(
        self,
        plan: Plan,
        writer: KafkaEventWriter,
        hashes: RedisHashes,
        config: ProbeConfig | None = None,
    ) -> None:
        """Take the plan the stream worker runs.

        ``hashes`` must read where serving reads.
        """
        self._plan = plan
        self._views = streamed_views(plan)
        self._topics = Topics(namespace=plan.project)
        self._writer = writer
        self._hashes = hashes
        self._config = config or ProbeConfig()
        self._round = 0

    def prepare(self) -> None:
        """Tell the log the items of the tracers, so that they have a category.

        Raises:
            ServerError: when the log does not take them.
        """
        items = [
            self._item(view, lane, time_ms=now_ms())
            for view in self._views
            for lane in range(LANES)
            if "category" in view.join_keys
        ]
        self._append(items)
        time.sleep(0.005)  # a category is known to events of a later millisecond

    def round(self) -> list[Trace]:
        """Send one tracer for each view and wait until all are servable or the time is over.

        Raises:
            ServerError: when Kafka or Redis does not answer.
        """
        lane = self._round % LANES
        self._round += 1
        at_ms = now_ms()
        events = [self._tracer(view, lane, at_ms) for view in self._views]
        received = self._append(events)
        pending = [
            _Sent(view, self._key(view, lane), at_ms, append_ms)
            for view, append_ms in zip(self._views, received, strict=True)
        ]
        return self._await(pending)

    def _await(self, pending: list[_Sent]) -> list[Trace]:
        traces: list[Trace] = []
        deadline_s = time.monotonic() + self._config.timeout_s
        while pending:
            found = self._hashes.read([(s.key, _fields(s.view)) for s in pending])
            read_ms = now_ms()
            left: list[_Sent] = []
            for sent, fields in zip(pending, found, strict=True):
                if (_newest_ms(sent.view, fields) or 0) >= sent.counts_at_ms:
                    traces.append(_servable(sent, read_ms))
                else:
                    left.append(sent)
            pending = left
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
        for sent in pending:
            PROBE_LOST.labels(view=sent.view.name).inc()
            traces.append(Trace(sent.view.name, None, None))
        return traces

    def _append(self, events: Sequence[Event]) -> list[int]:
        routed = [(*self._topics.route(event), encode(event)) for event in events]
        return self._writer.append_timed(routed)

    def _key(self, view: View, lane: int) -> bytes:
        name = _name(view, lane)
        ids = {"user_id": name, "item_id": name, "category": _CATEGORY}
        return EntityKeys(view, self._plan.project).of(*(ids[key] for key in view.join_keys))

    def _tracer(self, view: View, lane: int, time_ms: int) -> Event:
        """Give an event that changes the view."""
        name, event_id = _name(view, lane), f"{PREFIX}{uuid.uuid4().hex}"
        if view.name == names.ITEM_PROFILE and not view.aggregates:
            return self._item(view, lane, time_ms=time_ms)
        if view.name == names.USER_PROFILE and not view.aggregates:
            return UserEvent(event_id=event_id, event_time_ms=time_ms, user_id=name)
        column = next((a for a in view.aggregates if a.call.name != "ratio"), None)
        kind = "interaction" if column is None else column.kind
        if kind == "impression":
            return ImpressionEvent(
                event_id=event_id, event_time_ms=time_ms, user_id=name, request_id=event_id,
                items=[name],
            )  # fmt: skip
        make: Callable[..., Event] = InteractionEvent if kind == "interaction" else FeedbackEvent
        type_ = (column.event_type if column else None) or "probe"
        return make(
            event_id=event_id, event_time_ms=time_ms, user_id=name, item_id=name, type=type_
        )

    def _item(self, view: View, lane: int, *, time_ms: int) -> ItemEvent:
        return ItemEvent(
            event_id=f"{PREFIX}{uuid.uuid4().hex}", event_time_ms=time_ms,
            item_id=_name(view, lane), category=_CATEGORY, available=False,
        )  # fmt: skip


def _name(view: View, lane: int) -> str:
    return f"{PREFIX}{view.name}/{lane}"


def _fields(view: View) -> tuple[bytes, ...]:
    """Give what a reader of the view reads its age from."""
    is_told = view.name in (names.USER_PROFILE, names.ITEM_PROFILE) and not view.aggregates
    return (view.timestamp_field,) if is_told else (view.state_field,)


def _newest_ms(view: View, fields: Sequence[bytes | None]) -> int | None:
    (value,) = fields
    if value is None:
        return None
    if _fields(view) == (view.timestamp_field,):
        return decode_timestamp(value)
    return int(unframe([value]).newest_ms[0])


def _servable(sent: _Sent, read_ms: int) -> Trace:
    since_event_s = max(read_ms - sent.counts_at_ms, 0) / 1000
    since_append_s = max(read_ms - sent.append_ms, 0) / 1000
    PROBE_EVENT_TO_SERVABLE_SECONDS.observe(sent.view.name, [since_event_s])
    PROBE_APPEND_TO_SERVABLE_SECONDS.observe(sent.view.name, [since_append_s])
    return Trace(sent.view.name, since_event_s, since_append_s)
