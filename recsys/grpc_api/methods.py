"""What can be called: each method of the service, and the route of HTTP that it is the twin of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from recsys.events.schema import Event, Identifier
from recsys.wire import (
    MAX_K,
    EventsResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    ReplayResponse,
    SimilarResponse,
    UserResponse,
)

PACKAGE = "recsys.v1"
SERVICE = f"{PACKAGE}.Recommendations"


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class SimilarRequest(_Asked, frozen=True, kw_only=True):
    """Asks for the nearest other items of one item."""

    item_id: Identifier
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10


class UserRequest(_Asked, frozen=True, kw_only=True):
    """Asks what the system knows about a user."""

    user_id: Identifier


class PastAnswerRequest(_Asked, frozen=True, kw_only=True):
    """Asks for a past answer, computed again."""

    request_id: Identifier
    contributions: bool = False
    """Say which features made the scores."""


class EventsRequest(_Asked, frozen=True, kw_only=True):
    """Sends events; good ones are kept whatever the others are."""

    events: list[Event]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of the service."""

    name: str
    route: tuple[Literal["GET", "POST"], str]
    """Method and path of the HTTP twin; ``{field}`` in the path is a field of the request, and what
    else a GET asks stands in the query."""
    request: Any
    answer: Any
    about: str

    @property
    def full_name(self) -> str:
        """As gRPC calls it."""
        return f"/{SERVICE}/{self.name}"


METHODS: tuple[Method, ...] = (
    Method(
        name="Recommend",
        route=("POST", "/v1/recommendations"),
        request=RecommendRequest,
        answer=RecommendResponse,
        about="The next best items of a user.",
    ),
    Method(
        name="Rank",
        route=("POST", "/v1/rank"),
        request=RankRequest,
        answer=RankResponse,
        about="Put given items in order for a user.",
    ),
    Method(
        name="Similar",
        route=("GET", "/v1/items/{item_id}/similar"),
        request=SimilarRequest,
        answer=SimilarResponse,
        about="The nearest other items of an item.",
    ),
    Method(
        name="SendEvents",
        route=("POST", "/v1/events"),
        request=EventsRequest,
        answer=EventsResponse,
        about="Take events into the log; answered once the good ones are there for good.",
    ),
    Method(
        name="GetUser",
        route=("GET", "/v1/users/{user_id}"),
        request=UserRequest,
        answer=UserResponse,
        about="What the system knows about a user.",
    ),
    Method(
        name="GetPastAnswer",
        route=("GET", "/v1/requests/{request_id}"),
        request=PastAnswerRequest,
        answer=ReplayResponse,
        about="A past answer computed again, with any difference shown; takes seconds.",
    ),
)
