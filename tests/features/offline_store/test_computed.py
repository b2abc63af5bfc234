"""A computed view falls between events, where a row of the last event would stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from recsys.errors import InputError
from recsys.features.offline_store.computed import ComputedView
from recsys.features.offline_store.join import join_views
from recsys.features.offline_store.labels import JoinLabels

HOUR_MS = 3_600_000


class ClicksOfAnHour:
    """Counts (user, moment) pairs of the last hour, by definition."""

    def __init__(self, clicks: Sequence[tuple[str, int]]) -> None:
        self._clicks = clicks

    def at(
        self, keys: Mapping[str, Sequence[str]], moments_ms: Any, *, known_by_ms: Any = None
    ) -> pa.Table:
        assert known_by_ms is None
        asked = list(zip(keys["user_id"], moments_ms, strict=True))
        return pa.table(
            {
                "clicks": [float(sum(u == user and at <= t for u, at in self._clicks))
                           for user, t in asked],
                "clicks_1h": [float(sum(u == user and t - HOUR_MS < at <= t
                                        for u, at in self._clicks)) for user, t in asked],
            }
        )  # fmt: skip


def test_values_are_those_of_the_moment_in_the_labels_order() -> None:
    clicks = ClicksOfAnHour([("a", 0), ("a", 1000), ("b", 5)])
    view = ComputedView("clicks", clicks, (("user_id", "user"),), (("clicks_1h", "hour"),))
    moments = [HOUR_MS * 1000 + 999_999, 0, None, 1_000_999, 999_999, 10_000]
    labels = pa.table(
        {
            "user": ["a", "a", "a", "a", "a", None],
            "at": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )
    answer = join_views(labels, "at", [view], 1 << 20)
    assert answer.column_names == ["user", "at", "hour"]
    assert answer.column("hour").to_pylist() == [1.0, 1.0, None, 2.0, 1.0, None]
    unknown = labels.set_column(0, "user", pa.array(["?"] * 6))
    assert view.features_at(JoinLabels(unknown, "at"), 1 << 20).column("hour").null_count == 1
    numbers = labels.set_column(0, "user", pa.array(range(6)))
    with pytest.raises(InputError, match=r"wanted text in 'user'.*found int64"):
        view.features_at(JoinLabels(numbers, "at"), 1 << 20)
