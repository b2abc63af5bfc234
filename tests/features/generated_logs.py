"""Small logs full of trouble, drawn by hypothesis; what streams make of them; what they mean."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.codec import encode
from recsys.events.log import Record
from recsys.events.partitioning import partition_of
from recsys.events.schema import (
    FeedbackEvent,
    ForgetEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    LoggedEvent,
    UserEvent,
)
from recsys.features.duplicates import HORIZON
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
LEAP_DAY = 1_709_164_800_000
"""2024-02-29 00:00 UTC; March begins a day later."""
MONTH_BEGINS = (1_677_628_800_000, 1_704_067_200_000, LEAP_DAY + DAY_MS)
"""2023-03-01, 2024-01-01 and 2024-03-01, 00:00 UTC."""
STARTS = (
    T0, SUMMER_TIME_ENDS - HOUR_MS, SUMMER_TIME_BEGINS - 1, LEAP_DAY - 1,
    *(begin - 1 for begin in MONTH_BEGINS),
)  # fmt: skip
SPANS = (0, 1, 999, 1000, HOUR_MS - 1, HOUR_MS, DAY_MS)
USERS, ITEMS, CATEGORIES = "xy", "ab", ("tea", "mugs", "")
PROFILES: tuple[dict[str, str | int | list[str]], ...] = (
    {}, {"country": "FR"}, {"n": 1, "tags": ["p", "q"]}, {"tags": [], "country": ""},
)  # fmt: skip
Log = list[tuple[Record, LoggedEvent]]


def of_examples(number: int = EXAMPLES) -> settings:
    """Have a test draw so many logs."""
    return settings(max_examples=number)


class Row(NamedTuple):
    """One (event, item)."""

    keys: dict[str, str]
    seen: Seen
    known_ms: int


@st.composite
def logs(
    draw: st.DrawFn, *, num_partitions: int = 1, forgets: bool = False, longest: int = 25
) -> Log:
    """Give a small log: late, early, twice, in ties, at borders of days, months and summer time.

    Items change their category late, and whatever the schema lets be absent is absent now and then.
    """
    log: Log = []
    received, ends, times = draw(st.sampled_from(STARTS)), dict[tuple[str, int], int](), list[int]()
    kinds = ["item", "shown", "act", "act", "act", "said", "user", *(["forget"] * forgets)]
    for n in range(draw(st.integers(1, longest))):
        received += draw(st.sampled_from((0, 0, 1, 500, HOUR_MS, DAY_MS)))
        at = received + draw(st.sampled_from((-1, 1))) * draw(st.sampled_from(SPANS))
        if times and draw(st.integers(0, 3)) == 0:
            at = draw(st.sampled_from(times))
        times.append(at)
        event = draw(_events(draw(st.sampled_from(kinds)), n, at))
        topic, key = TOPICS.route(event)
        partition = partition_of(key, num_partitions)
        offset = ends.get((topic, partition), 0)
        ends[topic, partition] = offset + 1
        log.append((Record(topic, partition, offset, key, encode(event), received), event))
    return log


@st.composite
def _events(draw: st.DrawFn, kind: str, n: int, at: int) -> LoggedEvent:
    item, user = draw(st.sampled_from(ITEMS)), draw(st.sampled_from(USERS))
    # Now and then the id of one shortly before.
    event_id = f"{draw(st.integers(max(0, n - 3), n))}"
    match kind:
        case "item":
            return ItemEvent(
                event_id=event_id, event_time_ms=at, item_id=item,
                title=draw(st.sampled_from(("", "T"))),
                category=draw(st.sampled_from(CATEGORIES)),
                price=draw(st.sampled_from((None, 0.0, 1.5))),
                born_ms=draw(st.sampled_from((None, -1, at))),
                available=draw(st.booleans()),
                attributes=draw(st.sampled_from(PROFILES)),
            )  # fmt: skip
        case "shown":
            shown = draw(st.sampled_from((["a", "b"], ["b"], ["a", "a"])))
            return ImpressionEvent(
                event_id=event_id, event_time_ms=at, user_id=user, request_id="r", items=shown
            )
        case "user":
            attributes = draw(st.sampled_from(PROFILES))
            return UserEvent(
                event_id=event_id, event_time_ms=at, user_id=user, attributes=attributes
            )
        case "forget":
            return ForgetEvent(event_id=event_id, event_time_ms=at, user_id=user)
    made, types = {
        "act": (InteractionEvent, ("click", "purchase")),
        "said": (FeedbackEvent, ("like", "hide")),
    }[kind]
    return made(
        event_id=event_id, event_time_ms=at, user_id=user, item_id=item,
        type=draw(st.sampled_from(types)), value=draw(st.sampled_from((1.0, -2.5, 0.1))),
        request_id=draw(st.sampled_from((None, "r"))), position=draw(st.sampled_from((None, 0))),
    )  # fmt: skip


def told(plans: list[Plan], log: Log, seed: int, *, horizon: int = HORIZON) -> MemoryHashes:
    """Stream the log, items of each round first, torn and begun anew at random."""
    rng = np.random.default_rng(seed)
    hashes = MemoryHashes()
    stream = FeatureStream(plans, hashes, TOPICS, horizon=horizon)
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


def effective_ms(record: Record, event: LoggedEvent) -> int:
    """Give the time an event counts at."""
    return min(event.event_time_ms, record.timestamp_ms)


def counted(log: Log, horizon: int = HORIZON) -> Log:
    """Leave out what came again shortly after in its partition; to forget again is to forget."""
    latest: dict[tuple[str, int, str], int] = {}
    kept: Log = []
    for record, event in log:
        one = (record.topic, record.partition, event.event_id)
        is_again = one in latest and record.offset - latest[one] <= horizon
        if isinstance(event, ItemEvent | ForgetEvent) or not is_again:
            kept.append((record, event))
        latest[one] = record.offset
    return kept


def unforgotten(log: Log, horizon: int = HORIZON) -> Log:
    """Leave out what a later record forgets, those records, and what came twice."""
    kept: Log = []
    for record, event in counted(log, horizon):
        if isinstance(event, ForgetEvent):
            kept = [(r, e) for r, e in kept if getattr(e, "user_id", None) != event.user_id]
        else:
            kept.append((record, event))
    return kept


def erased(log: Log) -> Log:
    """Leave out what a later record forgets, as if it had never been; the records stay."""
    kept: Log = []
    for record, event in log:
        if isinstance(event, ForgetEvent):
            kept = [
                (r, e) for r, e in kept
                if isinstance(e, ForgetEvent) or getattr(e, "user_id", None) != event.user_id
            ]  # fmt: skip
        kept.append((record, event))
    return kept


def rows_by_the_book(log: Log, horizon: int = HORIZON) -> list[Row]:
    """Give each (event, item) with its keys, by the definitions, forgotten or not."""
    said = [
        (effective_ms(r, e), r.timestamp_ms, e.category, e.item_id)
        for r, e in log
        if isinstance(e, ItemEvent)
    ]
    rows: list[Row] = []
    for record, event in counted(log, horizon):
        at = effective_ms(record, event)
        match event:
            case ImpressionEvent():
                acts = [(item, "impression", "", 1.0) for item in event.items]
            case InteractionEvent():
                acts = [(event.item_id, "interaction", event.type, event.value)]
            case FeedbackEvent():
                acts = [(event.item_id, "feedback", event.type, event.value)]
            case _:
                continue
        for item, kind, type_, value in acts:
            known = sorted(s for s in said if s[3] == item and s[1] < record.timestamp_ms)
            in_force = [s for s in known if s[0] <= at]
            category = (in_force[-1] if in_force else known[0])[2] if known else ""
            keys = {"user_id": event.user_id, "item_id": item, "category": category}
            rows.append(
                Row(keys, Seen(at, kind, type_, value, item, category), record.timestamp_ms)
            )
    return rows
