"""What a caller can be allowed to do, and who a caller is once that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["serve", "ingest", "admin"]
"""``serve``: ask for items. ``ingest``: send events. ``admin``: read what is known about people,
metrics and the state of the servers. None includes another."""

SCOPES: tuple[Scope, ...] = ("serve", "ingest", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls."""

    name: str
    """Fit for a log: the id of a key, or issuer and subject of a token. Never the secret."""
    scopes: frozenset[Scope]
    rate_per_s: float | None = None
    """Requests a second; ``None``: the default of the settings."""
    burst: int | None = None
    """Requests at once; ``None``: the default."""


CALLER = "recsys.caller"
"""Where the scope of a request holds its ``Principal``, or ``None`` for an unknown caller of a
public endpoint. Absent where nobody is asked."""
