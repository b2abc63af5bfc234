"""A service reader gives of a stream's view what the stream's own reader gives, at any time."""

from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features import names
from recsys.features.hashes import MemoryHashes
from recsys.features.online import MemoryOnlineReader
from recsys.features.row_groups import decode_group, make_group
from recsys.features.stream import FeatureStream
from recsys.features.value_columns import Mask, RaggedColumn
from recsys.features.view import View
from tests.features.generated_logs import EXAMPLES, Log, logs, of_examples
from tests.features.test_every_function import IDS, PLAN, TTL_MS, VIEWS, moments
from tests.features.worlds import TOPICS, small_plan, vocabulary


@pytest.mark.parametrize("stores_values", [True, False])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@of_examples(max(5, EXAMPLES // 6))
@given(logs(), st.integers(0, 2**32 - 1))
def test_windows_are_those_of_the_moment_of_reading(
    view: View, stores_values: bool, log: Log, seed: int
) -> None:
    view = msgspec.structs.replace(view, stores_values=stores_values)
    views = [view if v.name == view.name else v for v in PLAN.views]
    plan = msgspec.structs.replace(PLAN, views=tuple(views))
    rng = np.random.default_rng(seed)
    hashes = MemoryHashes()
    assert hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0]) == []
    stored = set().union(*hashes.content.values())
    assert stores_values or not stored & {f.field_bytes for f in view.features}
    entities = list(product(*(IDS[key] for key in view.join_keys)))
    columns = {k: [ids[n] for ids in entities] for n, k in enumerate(view.join_keys)}
    some = rng.permutation(len(view.features))[: rng.integers(1, len(view.features) + 1)]
    chosen = [view.features[n] for n in some.tolist()]
    group = make_group(PLAN.project, [(view, chosen)])
    found = hashes.read([(key, group.fields) for key in group.keys.build(columns)])
    reader = MemoryOnlineReader(PLAN, hashes)
    last = max(record.timestamp_ms for record, _ in log)
    asked = moments(log, last, last + 2 * TTL_MS, view)
    for now in rng.choice(asked, min(len(asked), 4), replace=False).tolist():
        wanted = reader.read_view(view.name, columns, now_ms=now)
        rows = decode_group(group, found, now * 1000)
        status = rows.views[view.name].status
        gone = np.isin(status, (Mask.EXPIRED, Mask.MISSING))
        np.testing.assert_array_equal(status == Mask.MISSING, ~wanted.known)
        for feature in chosen:
            column = rows.column(f"{view.name}:{feature.name}")
            np.testing.assert_array_equal(column.mask, status)
            if feature.type == "float32":
                values = wanted.values[:, wanted.names.index(feature.name)]
                np.testing.assert_array_equal(column.values, np.where(gone, np.nan, values))
                assert not values[gone].any()
            else:
                assert isinstance(column.values, RaggedColumn)
                ragged = wanted.lists[feature.name]
                np.testing.assert_array_equal(column.values.values, ragged.values)
                np.testing.assert_array_equal(column.values.offsets, ragged.offsets)


@of_examples()
@given(logs())
def test_a_history_is_the_same_with_and_without_stored_lists(
    log: Log,
) -> None:
    found = []
    for stores_values in (True, False):
        plan = small_plan()
        views = [
            msgspec.structs.replace(v, stores_values=stores_values or v.name != names.USER_HISTORY)
            for v in plan.views
        ]
        plan = msgspec.structs.replace(plan, views=tuple(views))
        hashes = MemoryHashes()
        hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0])
        view = plan.view(names.USER_HISTORY)
        group = make_group(plan.project, [(view, view.features)])
        assert len(group.fields) == (4 if stores_values else 1)
        keys = group.keys.build({"user_id": IDS["user_id"]})
        rows = decode_group(group, hashes.read([(key, group.fields) for key in keys]), 2**50)
        reader = MemoryOnlineReader(plan, hashes)
        shown = [
            reader.read_profile(user, vocabulary=vocabulary(), now_ms=2**40)[names.USER_HISTORY]
            for user in IDS["user_id"]
        ]
        found.append((rows, shown))
    (stored, stored_shown), (made, made_shown) = found
    assert stored_shown == made_shown
    times, others = stored.views[names.USER_HISTORY], made.views[names.USER_HISTORY]
    np.testing.assert_array_equal(times.status, others.status)
    np.testing.assert_array_equal(times.event_time_us, others.event_time_us)
    for name in ("item_ids", "counts", "last_ms"):
        one, other = (rows.column(f"user_history:{name}") for rows in (stored, made))
        np.testing.assert_array_equal(one.mask, other.mask)
        assert isinstance(one.values, RaggedColumn)
        assert isinstance(other.values, RaggedColumn)
        np.testing.assert_array_equal(one.values.values, other.values.values)
        np.testing.assert_array_equal(one.values.offsets, other.values.offsets)
