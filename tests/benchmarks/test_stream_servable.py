"""Percentiles from buckets, as the benchmark of freshness gives them."""

from __future__ import annotations

from collections import Counter
from math import inf

from benchmarks.features.stream_servable import bound


def test_a_percentile_is_bounded_by_its_bucket() -> None:
    found = Counter({0.1: 98, 0.25: 0, 0.5: 1, inf: 1})
    assert [bound(found, p) for p in (50, 98, 99)] == [0.1, 0.1, 0.5]
    assert bound(found, 100) is None, "beyond the last bound"
    assert bound(Counter({0.1: 0}), 99) is None
