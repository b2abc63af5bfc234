"""A past answer beside the same one computed again."""

from __future__ import annotations

from typing import Literal

import msgspec

from recsys.wire.values import Rung


class ReplayPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a past answer beside what it is when computed again."""

    name: Literal["sources", "objectives", "scores", "list", "propensities"]
    outcome: Literal["equal", "different", "not_recomputed"]
    """``equal``: to the last bit."""
    num_compared: int = 0
    """Values, of ``list`` none."""
    num_different: int = 0
    max_abs_diff: float = 0.0
    detail: str = ""
    """Why it was not computed again, or what it would be."""


class Contribution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one feature added to a score."""

    feature: str
    contribution: float
    """In the units of the score: log-odds, blended over objectives."""
    value: float | None = None
    """What the model was given; absent for a vector."""


class ReplayedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a past answer."""

    item_id: str
    position: int
    logged_score: float | None = None
    """As answered."""
    score: float | None = None
    """Computed again; absent where it was not."""
    objectives: dict[str, float] = {}
    sources: dict[str, float] = {}
    base: float | None = None
    """Score of the model knowing nothing of user, moment and item; on ``contributions``."""
    contributions: list[Contribution] = []
    """The strongest, strongest first. With ``base``, ``other_contributions`` and ``unexplained``
    they sum to the model's blended score."""
    other_contributions: float = 0.0
    unexplained: float = 0.0
    """Error of the numerical integral."""


class ReplayResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A past answer computed again from its exposure and its bundle."""

    request_id: str
    user_id: str
    route: Literal["recommendations", "rank"]
    now_ms: int
    """When it was answered."""
    bundle: str
    rung: Rung
    policy: str
    rules: str
    """Version of the operator's rules; ``""``: none."""
    degraded: str = ""
    equal: bool
    """Every part was computed again and is equal to the last bit."""
    different: bool
    """Some part that was computed again is not."""
    parts: list[ReplayPart]
    items: list[ReplayedItem]
