"""Views over any keys, several plans at once, any order of arrival: stream, offline and a plain
reading of the definitions agree to the bit."""

from __future__ import annotations

from itertools import combinations, product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError
from recsys.events.event_columns import to_frame
from recsys.features.aggregate_state import state_of_blobs
from recsys.features.aggregates import finalise
from recsys.features.entities import KEYS, layout_of
from recsys.features.framing import unframe
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.log_rows import read_rows
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from recsys.features.view import View
from recsys.features.view_history import ViewHistory
from tests.features.generated_logs import (
    SPANS,
    Log,
    logs,
    of_examples,
    rows_by_the_book,
    told,
)
from tests.features.oracle import value_at
from tests.features.worlds import TOPICS, aggregate_view, aggregates, small_plan, unversioned

ALL_KEYS = [keys for n in (1, 2, 3) for keys in combinations(KEYS, n)]


def plan_of(columns: tuple[str, ...] = ("interaction", "impression")) -> Plan:
    """Give the usual plan and a view over every combination of keys."""
    views = tuple(aggregate_view("_".join(k) + "_counts", k, aggregates(columns)) for k in ALL_KEYS)
    plan = small_plan()
    return msgspec.structs.replace(plan, views=plan.views + views)


@of_examples()
@given(logs(), st.integers(0, 2**32 - 1), st.sampled_from(SPANS))
def test_stream_offline_and_the_definition_agree(log: Log, seed: int, later_ms: int) -> None:
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
            mine = [s for k, s, _ in book if "" not in ids and wanted.items() <= k.items()]
            expected = [value_at(a, mine, t) for a in view.aggregates]
            np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


@of_examples()
@given(logs(), st.integers(0, 2**32 - 1))
def test_two_plans_at_once_leave_what_each_alone_leaves(log: Log, seed: int) -> None:
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
