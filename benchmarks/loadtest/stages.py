"""Where a request's time went, as the service says: from /metrics, or from its answers' headers."""

from __future__ import annotations

import math
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.loadtest.result import Stage
from recsys.api_errors import key_in_force

_NAME = "recsys_stage_seconds"
_PATIENCE_S = 5.0


@dataclass
class _Histogram:
    sum_s: float = 0.0
    count: float = 0.0
    upto: dict[float, float] = field(default_factory=dict)
    """Observations at most so long, by bound."""


class StageMetrics:
    """Reads the API's histogram of stages; ``between`` gives what was added meanwhile."""

    def __init__(self, url: str | None, tls: ssl.SSLContext | None = None) -> None:
        """``url`` of the metrics; ``None``: there are none. ``tls`` checks who answers there."""
        self._url, self._tls = url, tls
        self.trouble = ""
        """Why there are no stages."""

    def read(self) -> dict[str, _Histogram]:
        """Read; nothing where the service has no such page."""
        if self._url is None:
            return {}
        request = urllib.request.Request(self._url)
        if key := key_in_force(None):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=self._tls) as answer:
                return parse_stages(answer.read().decode())
        except (OSError, ValueError) as error:
            self.trouble = f"{self._url}: {error}"
            return {}


def parse_stages(text: str) -> dict[str, _Histogram]:
    """Read the histogram of each stage from a page of metrics. Raises ValueError."""
    found: dict[str, _Histogram] = {}
    for family in text_string_to_metric_families(text):
        if family.name != _NAME:
            continue
        for sample in family.samples:
            stage = found.setdefault(sample.labels["stage"], _Histogram())
            if sample.name == f"{_NAME}_sum":
                stage.sum_s = sample.value
            elif sample.name == f"{_NAME}_count":
                stage.count = sample.value
            elif sample.name == f"{_NAME}_bucket":
                stage.upto[float(sample.labels["le"])] = sample.value
    return found


def between(
    before: dict[str, _Histogram], after: dict[str, _Histogram], requests: int
) -> dict[str, Stage]:
    """Give the stages of the requests between two readings; one that did not occur is left out.

    The 99th percentile is the bound of the bucket it lies in, so it is at most so long; ``None``
    beyond the last bound.
    """
    stages = {}
    for name, now in after.items():
        then = before.get(name, _Histogram())
        count = now.count - then.count
        if count <= 0 or not requests:
            continue
        bounds = sorted(bound for bound in now.upto if math.isfinite(bound))
        p99_s = next(
            (b for b in bounds if now.upto[b] - then.upto.get(b, 0.0) >= 0.99 * count), None
        )
        stages[name] = Stage(
            mean_ms=round(1e3 * (now.sum_s - then.sum_s) / requests, 4),
            p99_ms=None if p99_s is None else 1e3 * p99_s,
            count=count,
        )
    return stages


def from_headers(found: dict[str, list[float]], requests: int) -> dict[str, Stage]:
    """Give the stages that answers told of in ``Server-Timing``."""
    return {
        name: Stage(
            mean_ms=round(sum(values) / requests, 4),
            p99_ms=round(float(np.percentile(values, 99, method="higher")), 4),
            count=len(values),
        )
        for name, values in found.items()
        if values and requests
    }
