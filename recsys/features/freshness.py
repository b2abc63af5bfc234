"""How old events are when their features can be read, and how far the stream has come in time.

Two histograms for each view: from the moment an event happened, and from the moment the log took
it. A feature is servable when its write returned, which is the same moment for a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from recsys.events.log import TopicPartition
from recsys.events.schema import LoggedEvent
from recsys.features import names
from recsys.features.plan import Plan
from recsys.features.runs import Run
from recsys.telemetry import (
    APPEND_TO_SERVABLE_SECONDS,
    EVENT_TO_SERVABLE_SECONDS,
    FRESHNESS_SECONDS,
    STREAM_EVENTS,
    STREAM_LATE_EVENTS,
    STREAM_WATERMARK,
)

LATE_MS = 60_000
"""An event this far behind the newest of its partition is counted as late."""

_received_ms_of = attrgetter("timestamp_ms")
_event_time_ms_of = attrgetter("event_time_ms")
_KIND_OF_VIEW = {
    names.USER_HISTORY: ("interaction",),
    names.USER_PROFILE: ("user",),
    names.ITEM_PROFILE: ("item",),
}


def views_of_kinds(plan: Plan) -> dict[str, list[str]]:
    """Give the names of the views that each kind of event changes."""
    views: dict[str, list[str]] = {}
    for view in plan.views:
        kinds = _KIND_OF_VIEW.get(view.name) or sorted(
            {aggregate.kind for aggregate in view.aggregates if aggregate.call.name != "ratio"}
        )
        for kind in kinds:
            views.setdefault(kind, []).append(view.name)
    return views


class Freshness:
    """Observes the batches of one run."""

    def __init__(self, views: Mapping[str, Sequence[str]]) -> None:
        """Take what ``views_of_kinds`` gives."""
        self._views = views
        self._watermark_ms: dict[TopicPartition, int] = {}

    def observe(self, applied: Sequence[Run[LoggedEvent]], now_ms: int) -> None:
        """Take note that these records are servable from ``now_ms`` on."""
        applied = [run for run in applied if len(run)]
        if not applied:
            return
        events = [event for run in applied for event in run.events]
        records = [record for run in applied for record in run.records]
        appended = np.fromiter(map(_received_ms_of, records), np.int64)
        told = np.fromiter(map(_event_time_ms_of, events), np.int64)
        # No event happened after the log had it, whatever its sender's clock says.
        happened = np.minimum(told, appended)
        since_append_s = np.maximum(now_ms - appended, 0) / 1000
        since_event_s = np.maximum(now_ms - happened, 0) / 1000
        FRESHNESS_SECONDS.observe(float(since_append_s.max()))
        code_of: dict[Any, int] = {kind: n for n, kind in enumerate(set(map(type, events)))}
        codes = np.fromiter(map(code_of.__getitem__, map(type, events)), np.int64)
        for kind, code in code_of.items():
            rows = np.flatnonzero(codes == code)
            name = str(kind.__struct_config__.tag)
            STREAM_EVENTS.labels(kind=name).inc(len(rows))
            for view in self._views.get(name, ()):
                APPEND_TO_SERVABLE_SECONDS.observe(view, since_append_s[rows])
                EVENT_TO_SERVABLE_SECONDS.observe(view, since_event_s[rows])
        begin = 0
        for run in applied:
            self._passed(run.at, happened[begin : begin + len(run)])
            begin += len(run)

    def _passed(
        self, at: TopicPartition, happened: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> None:
        before_ms = self._watermark_ms.get(at, int(happened[0]))
        newest = np.maximum.accumulate(np.concatenate([[before_ms], happened]))
        STREAM_LATE_EVENTS.inc(int((happened < newest[:-1] - LATE_MS).sum()))
        self._watermark_ms[at] = int(newest[-1])
        STREAM_WATERMARK.labels(topic=at.topic, partition=at.partition).set(newest[-1] / 1000)

    def forget(self, at: TopicPartition) -> None:
        """Show nothing of a partition that another worker has now."""
        if self._watermark_ms.pop(at, None) is not None:
            STREAM_WATERMARK.remove(at.topic, str(at.partition))
