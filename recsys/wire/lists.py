"""Items in an order, with the reasons for it: recommended, ranked, or similar to another."""

from __future__ import annotations

from typing import Literal

import msgspec

from recsys.wire.users import UserSummary
from recsys.wire.values import Rung


class RuleEffect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one rule did to an item."""

    rule: str
    """Name of the operator's rule, or ``request``."""
    action: Literal["boost", "freshness", "pin"]
    factor: float = 1.0
    """On the item's odds."""


class Reasons(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an item stands where it does."""

    sources: dict[str, float]
    """Raw score by candidate source; only those that scored the item."""
    objectives: dict[str, float]
    """Calibrated probability by objective; only on the rung ``full``."""
    rules: list[RuleEffect] = []
    """What rules did to the item; caps and minimums, which speak of the list, apart."""
    propensity: float = 1.0
    """Chance of the item at its place given those above it; 1 where nothing was drawn."""


class RecommendedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of an answer."""

    item_id: str
    score: float
    """Blended score of the models, before rules; comparable within one answer only."""
    position: int
    """From 0."""
    title: str = ""
    category: str = ""
    reasons: Reasons | None = None
    """On ``explain``."""


class RecommendResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The next best items of a user."""

    request_id: str
    """Put it into impression and interaction events, so that they find this answer."""
    user_id: str
    known: bool
    """Whether anything was on record; an unknown user gets the cold start."""
    items: list[RecommendedItem]
    """Best first; fewer than ``k`` only when fewer may be shown."""
    bundle: str
    """The one bundle that served the whole request."""
    rung: Rung
    took_ms: float
    item_features_age_ms: int | None = None
    """Age of the moving item features that were used; on the rungs ``full``, ``retrieval``."""
    degraded: str = ""
    """Why the rung is not ``full``."""
    features: UserSummary | None = None
    """On ``explain``."""


class RankedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a ranked list."""

    item_id: str
    position: int
    known: bool
    """An item the live bundle does not know cannot be scored and stands at the end."""
    score: float | None = None
    title: str = ""
    category: str = ""
    reasons: Reasons | None = None


class RankResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Given items in order."""

    request_id: str
    user_id: str
    known: bool
    items: list[RankedItem]
    bundle: str
    rung: Rung
    took_ms: float
    item_features_age_ms: int | None = None
    degraded: str = ""
    features: UserSummary | None = None


class SimilarItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One neighbour of an item."""

    item_id: str
    score: float
    """Cosine of the item embeddings."""
    position: int
    title: str = ""
    category: str = ""


class SimilarResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The nearest other items of one item."""

    item_id: str
    items: list[SimilarItem]
    bundle: str
    took_ms: float
