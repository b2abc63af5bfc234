"""What an erasure searched, what it removed, and what is left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys.events.kafka import Retention


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place where something of a user may be."""

    name: str
    searched: str
    """What was looked at, in words: ``12 files``."""
    unit: str
    """What is counted: ``rows``, ``hashes``."""
    num_found: int
    num_removed: int
    num_left: int
    """Of what was to go. More than none: the erasure is not complete."""
    num_newer: int = 0
    """What the user did after the erasure began; it stays."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Of one erasure, or of what one would do."""

    user_id: str
    dry_run: bool
    event_id: str | None
    """Of the ``forget`` record, which keeps replays from bringing the user back."""
    topic: str | None
    partition: int | None
    offset: int | None
    """Where it lies; numbers of the event log."""
    places: tuple[Place, ...]
    kafka: tuple[Retention, ...] | None
    """How long Kafka keeps what was sent; ``None``: the broker does not say."""

    @property
    def is_complete(self) -> bool:
        """Say whether nothing is left that was to go. Kafka's own records are not counted."""
        return not self.dry_run and not any(place.num_left for place in self.places)

    def document(self) -> dict[str, Any]:
        """Give the JSON document."""
        return asdict(self) | {"complete": self.is_complete}
