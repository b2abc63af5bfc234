"""How many users travelled in each call of the model server: what the API counted itself."""

from __future__ import annotations

import math
import urllib.request
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

_NAME = "recsys_model_call_users"


def model_calls(url: str) -> Counter[float]:
    """Give the calls of ``recommend`` so far by users in them, from the API's ``/metrics``.

    Sizes between two buckets of the histogram count as the larger one.
    """
    with urllib.request.urlopen(f"{url}/metrics", timeout=10.0) as answer:
        text = answer.read().decode()
    upto = {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == _NAME
        for sample in family.samples
        if sample.name == f"{_NAME}_bucket" and sample.labels["call"] == "recommend"
    }
    found: Counter[float] = Counter()
    before = 0.0
    for size, total in sorted(upto.items()):
        if math.isfinite(size):
            found[size] = total - before
            before = total
    return found


def between(before: Mapping[float, float], after: Mapping[float, float]) -> dict[float, float]:
    """Give the calls between two looks."""
    return {
        size: count - before.get(size, 0.0)
        for size, count in after.items()
        if count > before.get(size, 0.0)
    }
