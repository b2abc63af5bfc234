"""What the system knows about a user."""

from __future__ import annotations

from typing import Literal

import msgspec


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item a user acted on."""

    item_id: str
    count: float
    """Interactions so far."""
    last_ms: int
    """Event time of the latest."""
    title: str = ""


class UserSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer knew about the user: the feature values that went into it."""

    as_of_ms: int
    """The moment the values speak of."""
    activity: dict[str, float]
    """Windowed aggregates by name; zeros are left out."""
    categories: dict[str, dict[str, float]]
    """Aggregates by category and name; zeros are left out."""
    history: list[HistoryItem]
    """Items acted on, most recent first."""


class UserProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What user events say about a user: the latest attributes as ``key=value`` tokens."""

    status: Literal["present", "missing", "expired"]
    """``missing``: no user event ever came; ``expired``: the latest is older than the feature
    view's time to live, and what it said counts as unknown."""
    tokens: list[str] = []
    """Sorted; a list attribute gives a token for each element."""
    event_time_ms: int | None = None
    """Of the latest user event; absent when there was none."""
    age_ms: int | None = None
    """Of that event now."""


class UserResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the system knows about a user now."""

    user_id: str
    known: bool
    bundle: str
    """Whose vocabulary names the items and categories."""
    profile: UserProfile
    features: UserSummary
