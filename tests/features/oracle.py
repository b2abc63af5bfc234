"""The definitions of ``aggregates.py`` and ``recency.py`` written as plainly as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.features.aggregates import QUANTUM
from recsys.features.names import HISTORY_EVENTS, HISTORY_LENGTH, identity_hash
from recsys.features.plan import Aggregate


@dataclass(frozen=True)
class Seen:
    """One (event, item) of one entity."""

    time_ms: int
    kind: str
    type: str
    value: float
    item_id: str = ""


def value_at(aggregate: Aggregate, events: Sequence[Seen], t: int) -> float:
    slide = aggregate.slide_ms
    chosen = [
        (e.time_ms, round(e.value / QUANTUM))
        for e in events
        if e.kind == aggregate.kind
        and aggregate.event_type in (None, e.type)
        and e.time_ms <= t
        and (e.time_ms // slide) * slide > (t // slide) * slide - aggregate.window_ms
    ]
    values = [v for _, v in chosen]
    if not values:
        return 0.0
    total = sum(values) * QUANTUM
    answer = {
        "count": float(len(values)),
        "sum": total,
        "mean": total / len(values),
        "min": min(values) * QUANTUM,
        "max": max(values) * QUANTUM,
        "last": max(chosen)[1] * QUANTUM,
    }[aggregate.function]
    return float(np.float32(answer))


def history_at(events: Sequence[Seen], t: int) -> list[tuple[str, int, int]]:
    """Give (item, count, last_ms), least recent first."""
    acted = sorted(
        (e.time_ms, identity_hash(e.item_id), e.item_id)
        for e in events
        if e.kind == "interaction" and e.time_ms <= t
    )[-HISTORY_EVENTS:]
    latest = {item: (time, h) for time, h, item in acted}
    items = sorted(latest, key=lambda item: latest[item])[-HISTORY_LENGTH:]
    return [(i, sum(x == i for _, _, x in acted), latest[i][0]) for i in items]
