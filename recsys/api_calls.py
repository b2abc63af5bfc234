"""The calls of the HTTP API as data: what is sent where, and what its answer is.

Nothing is sent here. ``client.py`` does that, blocking and on an event loop; both of its clients
make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from recsys.events.codec import encode
from recsys.events.schema import Event
from recsys.wire import (
    EventsResponse,
    Filters,
    RankRequest,
    RankResponse,
    Readiness,
    RecommendRequest,
    RecommendResponse,
    ReplayResponse,
    SimilarResponse,
    UserResponse,
)

Answer = TypeVar("Answer")
EventLike = Event | Mapping[str, Any]
"""An event, or the mapping that would be its JSON."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One call: what to send, and what its answer is."""

    method: str
    path: str
    answer: type[Answer]
    body: bytes | None = None
    also_good: int = 0
    """A further status that carries the answer."""
    takes_s: float = 0.0
    """Longer than a caller's usual patience; 0: it does not."""


def recommend_request(
    user_id: str,
    k: int,
    exclude_item_ids: Sequence[str],
    exclude_seen: bool,
    filters: Filters,
    context: Mapping[str, str],
    explain: bool,
    options: Mapping[str, Any],
) -> RecommendRequest:
    """Give the request that the arguments of ``Client.recommend`` make."""
    return RecommendRequest(
        user_id=user_id,
        k=k,
        exclude_item_ids=list(exclude_item_ids),
        exclude_seen=exclude_seen,
        filters=filters,
        context=dict(context),
        explain=explain,
        **options,
    )


def recommend(request: RecommendRequest) -> Call[RecommendResponse]:
    """Ask for the next best items of a user."""
    return Call("POST", "/v1/recommendations", RecommendResponse, _encode(request))


def rank(request: RankRequest) -> Call[RankResponse]:
    """Ask for items in order for a user."""
    return Call("POST", "/v1/rank", RankResponse, _encode(request))


def similar(item_id: str, k: int) -> Call[SimilarResponse]:
    """Ask for the nearest other items."""
    path = f"/v1/items/{_segment(item_id)}/similar?k={k}"
    return Call("GET", path, SimilarResponse)


def events(given: Iterable[EventLike]) -> Call[EventsResponse]:
    """Send events to the log; those that are structs are encoded as the log has them."""
    encoded = [e if isinstance(e, Mapping) else msgspec.Raw(encode(e)) for e in given]
    return Call("POST", "/v1/events", EventsResponse, _encode(encoded))


def user(user_id: str) -> Call[UserResponse]:
    """Ask for what is known about a user."""
    return Call("GET", f"/v1/users/{_segment(user_id)}", UserResponse)


PAST_ANSWER_S = 60.0
"""A past answer is computed by a process that loads the model first."""


def past_answer(request_id: str, contributions: bool) -> Call[ReplayResponse]:
    """Ask for a past answer, computed again."""
    query = "?contributions=true" if contributions else ""
    path = f"/v1/requests/{_segment(request_id)}{query}"
    return Call("GET", path, ReplayResponse, takes_s=PAST_ANSWER_S)


def ready() -> Call[Readiness]:
    """Ask whether requests should come here; that they should not is an answer too."""
    return Call("GET", "/readyz", Readiness, also_good=503)


def _segment(identity: str) -> str:
    """Give an identity as one part of a path: `.` and `..` too, which clients would take away."""
    quoted = quote(identity, safe="")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
