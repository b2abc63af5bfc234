"""What the routes work with: put together in ``composition.py``, or by a test from other parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from recsys.clock import Clock, now_ms
from recsys.events.topics import Topics
from recsys.inference.live import LiveBundle
from recsys.pipeline import Pipeline
from serving.api.event_publisher import EventPublisher
from serving.api.exposure_log import ExposureLog
from serving.api.problems import no_bundle


class HoldsLiveBundle(Protocol):
    """Knows the live bundle."""

    current: LiveBundle | None
    trouble: str


Probe = Callable[[], Awaitable[str]]
"""Asks one part whether it works: gives a few words about it, or raises RecsysError."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts behind the routes."""

    bundles: HoldsLiveBundle
    pipeline: Pipeline
    events: EventPublisher
    exposures: ExposureLog
    topics: Topics
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Checks of ``/readyz`` by part: redis, kafka, triton."""
    clock: Clock = now_ms

    def live(self) -> LiveBundle:
        """Give the bundle a request is answered with. Raises Problem ``no_bundle``."""
        live = self.bundles.current
        if live is None:
            raise no_bundle()
        return live
