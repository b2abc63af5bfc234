"""What a tracer is: an item, a user who clicks it, one who does not, and what is said of them.

A tracer's item is created, clicked and withdrawn, and its users ask for nothing else. Identities
begin with the reserved prefix (``recsys/events/tracers.py``), so that training and checks leave
them out, and no feature of anybody's item or user changes. An item's id says when it must be gone:
whoever finds it offered after that withdraws what a killed run has left.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from recsys.clock import now_ms
from recsys.events.tracers import PREFIX
from recsys.wire import Filters, RecommendRequest

LANES = 64
"""Users that tracers take turns with. Few, so that what they leave in the store stays small; many,
so that tracers under way at once seldom share one, and they are spread over the log's partitions.
Two that share one do not disturb each other: each looks for its own item."""
_OFFERED = 500
_ATTRIBUTE, _LANE = "recsys_probe", "recsys_probe_lane"
_CATEGORY = PREFIX + "category"


@dataclass(frozen=True, kw_only=True)
class Tracer:
    """One item with its users."""

    number: int
    item_id: str

    @property
    def user_id(self) -> str:
        """Who clicks it."""
        return f"{PREFIX}user-{self._lane}"

    @property
    def reader_id(self) -> str:
        """Who never clicks anything."""
        return f"{PREFIX}reader-{self._lane}"

    @property
    def _lane(self) -> int:
        return self.number % LANES

    def offered(self) -> dict[str, Any]:
        """Say that the item is there."""
        # Words, category and tags are always the same: a bundle keeps each that it ever heard.
        return _event(
            "item", item_id=self.item_id, title="freshness probe", category=_CATEGORY,
            attributes={_ATTRIBUTE: "tracer", _LANE: str(self._lane)},
        )  # fmt: skip

    def clicked(self) -> dict[str, Any]:
        """Say that the user clicked it."""
        return _event("interaction", user_id=self.user_id, item_id=self.item_id, type="click")

    def asked_by(self, user_id: str) -> RecommendRequest:
        """Ask for tracers of this lane: the item is among them, or not."""
        tags = [f"{_LANE}={self._lane}"]
        return RecommendRequest(
            user_id=user_id, k=LANES, filters=Filters(tags=tags), explore=False
        )  # fmt: skip


def item_id(run: str, number: int, *, gone_by_ms: int) -> str:
    """Give the id of a tracer's item; ``run`` is one that no other run has."""
    return f"{PREFIX}{gone_by_ms}/{run}-{number}"


def is_left(item: str, at_ms: int) -> bool:
    """Whether an item that is offered should be gone by then.

    >>> is_left("recsys-probe/1000/abc-1", 1001), is_left("recsys-probe/1000/abc-1", 1000)
    (True, False)
    >>> is_left("mug", 1001)
    False
    """
    moment, _, _ = item.removeprefix(PREFIX).partition("/")
    return item.startswith(PREFIX) and moment.isdecimal() and int(moment) < at_ms


def withdrawn(item: str) -> dict[str, Any]:
    """Say that an item is gone."""
    return _event("item", item_id=item, category=_CATEGORY, available=False)


def all_offered() -> RecommendRequest:
    """Ask for every tracer's item that is offered."""
    return RecommendRequest(
        user_id=f"{PREFIX}reader-all", k=_OFFERED, explore=False,
        filters=Filters(tags=[f"{_ATTRIBUTE}=tracer"]),
    )  # fmt: skip


def _event(kind: str, **said: Any) -> dict[str, Any]:
    return {
        "kind": kind, "event_id": f"{PREFIX}{uuid.uuid4().hex}", "event_time_ms": now_ms(), **said,
    }  # fmt: skip
