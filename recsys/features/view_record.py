"""One view of one entity as people read it: is it there, how old is it, what does it say.

What profiles, explanations and `recsys features show` speak of; models read tensors instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from recsys.features.value_layout import Value
from recsys.features.view import View


class Status(StrEnum):
    """Whether a view says something about an entity. (Feast calls all three PRESENT.)"""

    PRESENT = "present"
    MISSING = "missing"
    """Nothing was ever written."""
    EXPIRED = "expired"
    """The newest event is older than the view's TTL; the values count as absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """One view of one entity, readable by a human."""

    status: Status
    event_time_ms: int | None
    """Time of the newest event it is made of."""
    age_ms: int | None
    values: dict[str, Value]
    """By feature name; empty unless present."""


def status_at(view: View, at_ms: int | None, now_ms: int) -> Status:
    """Give what a view says whose newest event was at ``at_ms`` (``None``: nothing was written)."""
    if at_ms is None:
        return Status.MISSING
    if view.ttl_ms and now_ms - at_ms > view.ttl_ms:
        return Status.EXPIRED
    return Status.PRESENT


def record_at(view: View, at_ms: int | None, now_ms: int) -> ViewRecord:
    """Give the record of such a view; the caller fills in the values of one that is present."""
    return ViewRecord(
        status=status_at(view, at_ms, now_ms),
        event_time_ms=at_ms,
        age_ms=None if at_ms is None else now_ms - at_ms,
        values={},
    )
