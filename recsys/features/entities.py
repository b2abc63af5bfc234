"""What the stream remembers of an entity, as it lies in the entity's own hash in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from recsys.features import names
from recsys.features.hashes import VERSION_FIELD, version_of
from recsys.features.layout import EntityKeys, decode_timestamp, decode_value
from recsys.features.plan import Plan, View
from recsys.features.positions import POSITIONS_FIELD

CATEGORIES_FIELD = b"~categories"
"""Which category an item was in from when on: JSON ``[[event_time_ms, category], …]``."""
NEVER_MS = -(2**60)
"""Stands for the time of an event that never was."""

_categories = msgspec.json.Decoder(list[tuple[int, str]])
Loaded = Sequence[bytes | None]


@dataclass(slots=True)
class UserState:
    """A user's tiles, recent interactions, and what they are known until."""

    key: bytes
    version: int
    positions: bytes | None
    tiles: bytes | None
    newest_ms: int
    events: bytes | None
    events_newest_ms: int
    profile_ms: int
    known_items: list[str] | None
    """Items named in the stored history: state keeps only their hashes."""


@dataclass(slots=True)
class ItemState:
    """An item's tiles and the categories it was in."""

    key: bytes
    version: int
    positions: bytes | None
    tiles: bytes | None
    newest_ms: int
    profile_ms: int
    categories: list[tuple[int, str]]
    """By time; a category counts from its time on, the first one also before."""

    def category_at(self, time_ms: int) -> str:
        """Give the category at a time, ``""`` for none."""
        chosen = ""
        for number, (since_ms, category) in enumerate(self.categories):
            if number and since_ms > time_ms:
                break
            chosen = category
        return chosen


@dataclass(slots=True)
class PairState:
    """Tiles of a user in a category."""

    key: bytes
    version: int
    positions: bytes | None
    tiles: bytes | None
    newest_ms: int


class TiledState(Protocol):
    """What the three have in common."""

    key: bytes
    version: int
    """``Write.version`` of the next write."""
    positions: bytes | None
    tiles: bytes | None
    newest_ms: int


def _time(loaded: bytes | None) -> int:
    return NEVER_MS if loaded is None else decode_timestamp(loaded)


class Entities:
    """Keys and fields of the three kinds of entity, and how their state is decoded."""

    def __init__(self, plan: Plan) -> None:
        self.user_activity: View = plan.view(names.USER_ACTIVITY)
        self.user_history: View = plan.view(names.USER_HISTORY)
        self.user_profile: View = plan.view(names.USER_PROFILE)
        self.item_activity: View = plan.view(names.ITEM_ACTIVITY)
        self.item_profile: View = plan.view(names.ITEM_PROFILE)
        self.pair_activity: View = plan.view(names.USER_CATEGORY_ACTIVITY)
        self.layout = "-".join(
            view.layout_hash
            for view in (
                self.user_activity, self.user_history, self.item_activity, self.pair_activity
            )
        )  # fmt: skip
        self.user_key = EntityKeys(self.user_activity, plan.project).of
        self.item_key = EntityKeys(self.item_activity, plan.project).of
        self._pair_key = EntityKeys(self.pair_activity, plan.project).of
        # Join keys are sorted in the Redis key: category, then user_id.
        self._category_first = self.pair_activity.join_keys[0] == "category"
        self.user_fields = (
            VERSION_FIELD,
            POSITIONS_FIELD,
            self.user_activity.state_field,
            self.user_activity.timestamp_field,
            self.user_history.state_field,
            self.user_history.timestamp_field,
            self.user_history.feature("item_ids").field_bytes,
            self.user_profile.timestamp_field,
        )
        self.item_fields = (
            VERSION_FIELD,
            POSITIONS_FIELD,
            self.item_activity.state_field,
            self.item_activity.timestamp_field,
            self.item_profile.timestamp_field,
            CATEGORIES_FIELD,
        )
        self.pair_fields = (
            VERSION_FIELD,
            POSITIONS_FIELD,
            self.pair_activity.state_field,
            self.pair_activity.timestamp_field,
        )

    def pair_key(self, user_id: str, category: str) -> bytes:
        """Give the key of a user in a category."""
        if self._category_first:
            return self._pair_key(category, user_id)
        return self._pair_key(user_id, category)

    def user_state(self, key: bytes, loaded: Loaded) -> UserState:
        """Decode what was read under ``user_fields``."""
        version, positions, tiles, newest, events, events_newest, item_ids, profile = loaded
        known = decode_value(item_ids, "string_list")
        return UserState(
            key, version_of(version), positions, tiles, _time(newest), events,
            _time(events_newest), _time(profile),
            known if isinstance(known, list) else None,  # type: ignore[arg-type]
        )  # fmt: skip

    def item_state(self, key: bytes, loaded: Loaded) -> ItemState:
        """Decode what was read under ``item_fields``."""
        version, positions, tiles, newest, profile, categories = loaded
        timeline = _categories.decode(categories) if categories else []
        return ItemState(
            key, version_of(version), positions, tiles, _time(newest), _time(profile), timeline
        )

    def pair_state(self, key: bytes, loaded: Loaded) -> PairState:
        """Decode what was read under ``pair_fields``."""
        version, positions, tiles, newest = loaded
        return PairState(key, version_of(version), positions, tiles, _time(newest))
