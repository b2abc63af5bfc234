"""What every answer from status 400 on says."""

from __future__ import annotations

import msgspec

from recsys.wire.events import EventRefusal


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with a request, or with us."""

    code: str
    """In one word, for programs."""
    message: str
    """Wanted, found and what to do, for people."""
    field: str = ""
    """Path of the offending field; ``""`` when the whole is."""


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every answer from 400 on."""

    error: Error
    accepted: int = 0
    """Of ``POST /v1/events``: always 0 here; a batch with one good event is answered 202."""
    refused: int = 0
    refusals: list[EventRefusal] = []
