"""A service reader gives of a stream's view what the stream's own reader gives, at any time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events.log import Record
from recsys.events.schema import Event
from recsys.features.hashes import MemoryHashes
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import View
from recsys.features.service_reader import decode_group, make_group
from recsys.features.stream import FeatureStream
from recsys.features.value_columns import Mask, RaggedColumn
from tests.features.generated_logs import EXAMPLES, logs
from tests.features.test_every_function import IDS, PLAN, TTL_MS, VIEWS, moments
from tests.features.worlds import TOPICS


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@settings(deadline=None, max_examples=max(5, EXAMPLES // 3))
@given(logs(), st.integers(0, 2**32 - 1))
def test_windows_are_those_of_the_moment_of_reading(
    view: View, log: list[tuple[Record, Event]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    hashes = MemoryHashes()
    assert hashes.write(FeatureStream(PLAN, hashes, TOPICS).apply(log)[0]) == []
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
