"""A moment by which an answer must be there, handed down through the stages of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock."""

    end_s: float

    @classmethod
    def after_ms(cls, budget_ms: float) -> Deadline:
        """Give the deadline ``budget_ms`` from now."""
        return cls(time.monotonic() + budget_ms / 1e3)

    def remaining_s(self) -> float:
        """Give the seconds left, never below 0."""
        return max(0.0, self.end_s - time.monotonic())

    def within_ms(self, budget_ms: float) -> Deadline:
        """Give the share of a stage: ``budget_ms`` from now, but never past this deadline."""
        return Deadline(min(self.end_s, time.monotonic() + budget_ms / 1e3))

    def before_ms(self, reserve_ms: float) -> Deadline:
        """Give the deadline ``reserve_ms`` earlier, for a stage that others follow."""
        return Deadline(self.end_s - reserve_ms / 1e3)

    @classmethod
    def latest(cls, first: Deadline, *others: Deadline) -> Deadline:
        """Give the last of several, for work that is shared: each waiter cuts its own wait."""
        return max((first, *others), key=lambda deadline: deadline.end_s)
