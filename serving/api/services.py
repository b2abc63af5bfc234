"""What the routes work with: put together in ``composition.py``, or by a test from other parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock, now_ms
from recsys.events.topics import Topics
from recsys.inference.live import LiveBundle
from recsys.pipeline import Pipeline
from serving.api.draining import Draining
from serving.api.event_publisher import EventPublisher
from serving.api.exposure_log import ExposureLog
from serving.api.item_age import ItemAge
from serving.api.problems import Problem, no_bundle


class HoldsLiveBundle(Protocol):
    """Knows the bundles in service."""

    current: LiveBundle | None
    trouble: str

    @property
    def can_answer(self) -> bool:
        """Whether requests should come here."""

    def serving(self, bundle_id: str) -> LiveBundle | None:
        """Give a bundle in service by its id, the live one included."""


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
    static: ServedBundle | None = None
    """The static list, as a bundle of its items; ``None`` when no bundle was ever taken up."""
    draining: Draining = field(default_factory=Draining)
    item_age: ItemAge = field(default_factory=lambda: ItemAge(2_000))
    """Watches how old the item features of answers are."""
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Checks of ``/readyz`` by part: redis, kafka, triton."""
    clock: Clock = now_ms

    def live(self, bundle_id: str | None = None) -> LiveBundle:
        """Give the bundle a request is answered with: the live one, or the one it is assigned.

        Raises:
            Problem: ``no_bundle`` when nothing is live, ``not_found`` when the bundle asked for is
                not in service. A request meant for one bundle is never answered by another.
        """
        live = self.bundles.current
        if live is None:
            raise no_bundle()
        if bundle_id is None:
            return live
        assigned = self.bundles.serving(bundle_id)
        if assigned is None:
            raise Problem(
                "not_found",
                f"bundle: wanted one that is in service, found {bundle_id!r}; leave it out for the "
                "live one, or run `recsys publish --beside` first",
                field="bundle",
            )
        return assigned
