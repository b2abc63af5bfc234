"""Between two moments at which time changes values, nothing changes them but writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.aggregate_state import state_of_blobs
from recsys.features.finalised import payloads_now, values_now
from recsys.features.framing import unframe
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.next_change import NO_CHANGE_MS, NextChange
from recsys.features.stream import FeatureStream
from recsys.features.view import View
from tests.features.generated_logs import Log, logs, of_examples
from tests.features.test_every_function import IDS, PLAN, TTL_MS, VIEWS, moments
from tests.features.worlds import TOPICS, small_plan

ITEM = small_plan().view("item_activity")


@pytest.mark.parametrize("view", [VIEWS[1], ITEM], ids=["every function", "tiles alone"])
@of_examples()
@given(logs(), st.integers(0, 2**32 - 1))
def test_values_stay_until_the_moment_that_is_said(view: View, log: Log, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = PLAN if view in PLAN.views else small_plan()
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0])
    keys = EntityKeys(view, plan.project).of_all([(one,) for one in IDS["item_id"]])
    states = [row[0] for row in hashes.read([(key, (view.state_field,)) for key in keys])]
    first = min(record.timestamp_ms for record, _ in log)
    last = max(record.timestamp_ms for record, _ in log)
    asked = moments(log, first - 1, last + 3 * TTL_MS, view)
    next_change = NextChange(view)
    for now in rng.choice(asked, min(len(asked), 6), replace=False).tolist():
        at = np.full(len(states), now, dtype=np.int64)
        framed = unframe(states)
        payloads = payloads_now(view, states, at)
        until = next_change.after(at, state_of_blobs(view, payloads), framed.newest_ms)
        assert (until > now).all()
        values = values_now(view, states, at)
        ends = [u - 1 for u in until.tolist() if u < NO_CHANGE_MS]
        for later in {*asked, *ends}:
            same = (until > later) & (later >= now)
            found = values_now(view, states, np.full(len(states), later, dtype=np.int64))
            np.testing.assert_array_equal(found[same], values[same])


def test_an_item_without_events_changes_by_writes_alone() -> None:
    now = np.array([5], dtype=np.int64)
    framed = unframe([None])
    state = state_of_blobs(ITEM, framed.payloads)
    assert NextChange(ITEM).after(now, state, framed.newest_ms).tolist() == [NO_CHANGE_MS]
