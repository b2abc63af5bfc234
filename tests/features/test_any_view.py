"""Views over any keys, several plans at once, any order of arrival: stream, offline and a plain
reading of the definitions agree to the bit."""

from __future__ import annotations

from itertools import combinations, product

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.errors import FeatureError
from recsys.events.event_columns import to_frame
from recsys.events.log import Record
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.features.aggregates import finalise, state_of_blobs
from recsys.features.entities import KEYS, layout_of
from recsys.features.framing import unframe
from recsys.features.hashes import MemoryHashes
from recsys.features.layout import EntityKeys
from recsys.features.log_rows import read_rows
from recsys.features.plan import Plan, View
from recsys.features.stream import FeatureStream
from recsys.features.view_history import ViewHistory
from tests.features.oracle import Seen, value_at
from tests.features.worlds import TOPICS, aggregate_view, aggregates, small_plan, unversioned

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
ALL_KEYS = [keys for n in (1, 2, 3) for keys in combinations(KEYS, n)]
SPANS = (0, 1, 999, 1000, HOUR_MS - 1, HOUR_MS, DAY_MS)


def plan_of(columns: tuple[str, ...] = ("interaction", "impression")) -> Plan:
    """Give the usual plan and a view over every combination of keys."""
    views = tuple(aggregate_view("_".join(k) + "_counts", k, aggregates(columns)) for k in ALL_KEYS)
    plan = small_plan()
    return msgspec.structs.replace(plan, views=plan.views + views)


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[Record, Event]]:
    """Give a small log: late, early, twice, in ties, items that change their category late."""
    log: list[tuple[Record, Event]] = []
    received, offsets = T0, {TOPICS.items: 0, TOPICS.behaviour: 0}
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
        columns, _ = stream.columns(batch)
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


def rows_by_the_book(log: list[tuple[Record, Event]]) -> list[tuple[dict[str, str], Seen]]:
    """Give each (event, item) with its keys, by the definitions."""
    said = [
        (min(e.event_time_ms, r.timestamp_ms), r.timestamp_ms, e.category, e.item_id)
        for r, e in log
        if isinstance(e, ItemEvent)
    ]
    rows: list[tuple[dict[str, str], Seen]] = []
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
                seen = Seen(at, "interaction", event.type, event.value, item)
            else:
                seen = Seen(at, "impression", "", 1.0, item)
            rows.append((keys, seen))
    return rows


@settings(deadline=None, max_examples=25)
@given(logs(), st.integers(0, 2**32 - 1), st.sampled_from(SPANS))
def test_stream_offline_and_the_definition_agree(
    log: list[tuple[Record, Event]], seed: int, later_ms: int
) -> None:
    plan = plan_of()
    hashes = told([plan], log, seed)
    rows, book = read_rows(to_frame(log)), rows_by_the_book(log)
    t = max(r.timestamp_ms for r, _ in log) + later_ms
    values = {"user_id": "xyz", "item_id": "abc", "category": ("tea", "mugs", "")}
    for view in plan.views[-len(ALL_KEYS) :]:
        entities = list(product(*(values[key] for key in view.join_keys)))
        keys = EntityKeys(view, plan.project)
        blobs = [hashes.content.get(keys.of(*ids), {}).get(view.state_field) for ids in entities]
        now = np.full(len(entities), t)
        online = finalise(view, state_of_blobs(view, unframe(blobs).payloads), now)
        columns = {k: [ids[n] for ids in entities] for n, k in enumerate(view.join_keys)}
        np.testing.assert_array_equal(ViewHistory(rows, view).at(columns, now), online)
        for ids, found in zip(entities, online, strict=True):
            wanted = dict(zip(view.join_keys, ids, strict=True))
            mine = [s for k, s in book if "" not in ids and wanted.items() <= k.items()]
            expected = [value_at(a, mine, t) for a in view.aggregates]
            np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


@settings(deadline=None, max_examples=25)
@given(logs(), st.integers(0, 2**32 - 1))
def test_two_plans_at_once_leave_what_each_alone_leaves(
    log: list[tuple[Record, Event]], seed: int
) -> None:
    old, new = plan_of(), plan_of(("interaction", "interaction__purchase"))
    both = unversioned(told([old, new], log, seed).content)
    alone = unversioned(told([new], log, seed + 1).content)
    before = unversioned(told([old], log, seed + 2).content)
    states = {v.state_field for plan in (old, new) for v in plan.views}
    for key, fields in both.items():
        kept = {v.state_field for v in new.views}
        feast_and_new = {k: v for k, v in fields.items() if k in kept or k not in states}
        assert feast_and_new == alone.get(key, {})
        kept = {v.state_field for v in old.views}
        mine = {k: v for k, v in fields.items() if k in kept}
        assert mine == {k: v for k, v in before.get(key, {}).items() if k in states}
    assert set(layout_of([old]).split("-")) < set(layout_of([old, new]).split("-"))


def test_keys_that_no_event_carries_are_named() -> None:
    view = aggregate_view("by_shop", ("shop_id", "user_id"), aggregates(("interaction",)))
    plan = msgspec.structs.replace(small_plan(), views=(view,))
    with pytest.raises(FeatureError, match=r'"by_shop" .* wanted one or more of category, item_id'):
        FeatureStream(plan, MemoryHashes(), TOPICS)
    history: View = small_plan().view("user_history")
    wrong = msgspec.structs.replace(history, join_keys=("item_id",))
    with pytest.raises(FeatureError, match="wanted the join key user_id"):
        FeatureStream(msgspec.structs.replace(plan, views=(wrong,)), MemoryHashes(), TOPICS)
