"""What became of events that were sent."""

from __future__ import annotations

import msgspec


class EventRefusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one event of a batch was not taken."""

    index: int
    """Its place in the batch, from 0."""
    field: str
    """Path of the wrong field (``events[3].item_id``)."""
    code: str
    """``malformed``, ``schema``, ``time`` or ``duplicate``."""
    message: str


class EventsResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a batch of events. ``accepted`` ones are in the log for good, or on disk until
    the log is back."""

    accepted: int
    refused: int
    refusals: list[EventRefusal] = []
