"""What a plan is asked for."""

from __future__ import annotations

import math

import msgspec

from benchmarks.capacity.scaling.predict import Work
from recsys.errors import InputError


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    users: float
    items: float
    rate: float
    """Recommendations a second at the peak."""
    events: float
    """Events a second at the peak."""
    user_events: float = 30
    """Events of a stored user within the windows: how much there is to hold of one."""
    events_a_post: float = 5
    """Events in one request of ``/v1/events``."""
    candidates: float = 500
    history: float = 50
    features: float | None = None
    utilisation: float = 0.6
    """Of a core, at the peak: see docs/capacity.md for what it does to latency."""
    zones: int = 3
    """Of which one may be lost; 1 reserves nothing."""
    retention_days: float = 7.0
    """Of events in Kafka."""
    bundles: int = 2
    """That a model server holds at once: the live one, and the one that is loaded beside it."""
    gpu: bool = False
    """Whether model servers may have GPUs."""

    def checked(self) -> Demand:
        """Give itself. Raises InputError for what no plan can be made of."""
        for name in (
            "users", "items", "rate", "user_events", "events_a_post", "candidates", "history",
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"wanted {name} above 0, found {value:g}", field=name)
        if not (math.isfinite(self.events) and self.events >= 0):
            raise InputError(f"wanted events of 0 or more, found {self.events:g}", field="events")
        if self.features is not None and not self.features > 0:
            raise InputError(f"wanted features above 0, found {self.features:g}", field="features")
        if not 0.05 <= self.utilisation <= 0.9:
            raise InputError(
                "wanted a utilisation from 0.05 to 0.9 (above it queues grow without bound), found "
                f"{self.utilisation:g}", field="utilisation",
            )  # fmt: skip
        if self.zones < 1 or self.bundles < 1 or not self.retention_days > 0:
            raise InputError(
                "wanted at least 1 zone, 1 bundle and some retention, found "
                f"{self.zones}, {self.bundles}, {self.retention_days:g} days"
            )
        if self.candidates > self.items:
            raise InputError(
                f"wanted no more candidates than items, found {self.candidates:g} of "
                f"{self.items:g}", field="candidates",
            )  # fmt: skip
        return self

    @property
    def work(self) -> Work:
        """What a request asks of the model."""
        return Work(
            items=self.items, candidates=self.candidates, history=self.history,
            features=self.features,
        )  # fmt: skip

    @property
    def reserve(self) -> float:
        """How many times what is needed is bought, so that a zone may be lost."""
        return self.zones / (self.zones - 1) if self.zones > 1 else 1.0
