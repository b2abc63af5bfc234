"""Whether the API lives, and the parts it needs answer."""

from __future__ import annotations

from typing import Literal

import msgspec


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process lives."""

    status: Literal["ok"]
    version: str


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part the API needs, and whether it answered at once."""

    ok: bool
    detail: str
    took_ms: float


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether requests should come to this process, and how the parts are."""

    ready: bool
    """False while the process takes its first bundle up, when it cannot read it, and once it was
    told to stop. Parts that are away leave it true: ``checks`` says so."""
    bundle: str | None
    """The live bundle; null while none is published, when only events are taken."""
    checks: dict[str, Check]
