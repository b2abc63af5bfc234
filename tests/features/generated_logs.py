"""Small logs full of trouble, drawn by hypothesis; what streams make of them; what they mean."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.log import Record
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.features.hashes import MemoryHashes
from recsys.features.plan import Plan
from recsys.features.runs import runs_of
from recsys.features.stream import FeatureStream
from tests.features.oracle import Seen
from tests.features.worlds import TOPICS

EXAMPLES = int(os.environ.get("RECSYS_TEST_EXAMPLES", "20"))
T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
SUMMER_TIME_ENDS = 1_698_541_200_000
"""2023-10-29 01:00 UTC in Europe; the day has 25 hours there, and 24 here."""
SUMMER_TIME_BEGINS = 1_678_604_400_000
"""2023-03-12 07:00 UTC in New York."""
STARTS = (T0, SUMMER_TIME_ENDS - HOUR_MS, SUMMER_TIME_BEGINS - 1)
SPANS = (0, 1, 999, 1000, HOUR_MS - 1, HOUR_MS, DAY_MS)


class Row(NamedTuple):
    """One (event, item)."""

    keys: dict[str, str]
    seen: Seen
    known_ms: int


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[Record, Event]]:
    """Give a small log: late, early, twice, in ties, items that change their category late."""
    log: list[tuple[Record, Event]] = []
    received, offsets = draw(st.sampled_from(STARTS)), {TOPICS.items: 0, TOPICS.behaviour: 0}
    for n in range(draw(st.integers(1, 25))):
        received += draw(st.sampled_from((0, 0, 1, 500, HOUR_MS)))
        at = received + draw(st.sampled_from((-1, 1))) * draw(st.sampled_from(SPANS))
        item, user = draw(st.sampled_from("ab")), draw(st.sampled_from("xy"))
        kind = draw(st.sampled_from(("item", "shown", "act", "act")))
        event: Event
        if kind == "item":
            category = draw(st.sampled_from(("tea", "mugs", "")))
            event = ItemEvent(event_id=f"{n}", event_time_ms=at, item_id=item, category=category)
        elif kind == "shown":
            event = ImpressionEvent(
                event_id=f"{n}", event_time_ms=at, user_id=user, request_id="r", items=["a", "b"]
            )
        else:
            event_id = f"{draw(st.integers(max(0, n - 3), n))}"
            value = draw(st.sampled_from((1.0, -2.5, 0.1)))
            event = InteractionEvent(
                event_id=event_id, event_time_ms=at, user_id=user, item_id=item,
                type=draw(st.sampled_from(("click", "purchase"))), value=value,
            )  # fmt: skip
        topic, key = TOPICS.route(event)
        log.append((Record(topic, 0, offsets[topic], key, b"", received), event))
        offsets[topic] += 1
    return log


def told(plans: list[Plan], log: list[tuple[Record, Event]], seed: int) -> MemoryHashes:
    """Stream the log, items of each round first, torn and begun anew at random."""
    rng = np.random.default_rng(seed)
    hashes = MemoryHashes()
    stream = FeatureStream(plans, hashes, TOPICS)
    at = 0
    while at < len(log):
        end = at + int(rng.integers(1, 8))
        batch = sorted(log[at:end], key=lambda one: one[0].topic != TOPICS.items)
        columns, _ = stream.columns(runs_of(batch))
        writes = stream.apply_columns(columns)
        if rng.random() < 0.5:  # killed among its writes; another goes on from what was written
            kept = [w for w in writes if rng.random() < 0.5]
            assert hashes.write(kept) == []
            stream.forget()
            writes = stream.apply_columns(columns)
        while refused := hashes.write(writes):
            stream.forget_entities(refused)
            writes = stream.apply_columns(columns)
        at = end
    return hashes


def rows_by_the_book(log: list[tuple[Record, Event]]) -> list[Row]:
    """Give each (event, item) with its keys, by the definitions."""
    said = [
        (min(e.event_time_ms, r.timestamp_ms), r.timestamp_ms, e.category, e.item_id)
        for r, e in log
        if isinstance(e, ItemEvent)
    ]
    rows: list[Row] = []
    ids: set[str] = set()
    for record, event in log:
        if isinstance(event, ItemEvent) or event.event_id in ids:
            continue
        ids.add(event.event_id)
        at = min(event.event_time_ms, record.timestamp_ms)
        shown = event.items if isinstance(event, ImpressionEvent) else [event.item_id]  # type: ignore[union-attr]
        for item in shown:
            known = sorted(s for s in said if s[3] == item and s[1] < record.timestamp_ms)
            in_force = [s for s in known if s[0] <= at]
            category = (in_force[-1] if in_force else known[0])[2] if known else ""
            keys = {"user_id": event.user_id, "item_id": item, "category": category}  # type: ignore[union-attr]
            if isinstance(event, InteractionEvent):
                seen = Seen(at, "interaction", event.type, event.value, item, category)
            else:
                seen = Seen(at, "impression", "", 1.0, item, category)
            rows.append(Row(keys, seen, record.timestamp_ms))
    return rows
