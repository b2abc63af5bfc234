"""Every route in one table: the router and the OpenAPI document are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from recsys import wire
from recsys.events.schema import Event
from recsys.security.scopes import Scope
from serving.api.deadlines import TIMEOUT_HEADER
from serving.api.problems import Code
from serving.api.routes.events import events
from serving.api.routes.health import healthz, metrics, readyz
from serving.api.routes.items import DEFAULT_K, similar
from serving.api.routes.recommendations import rank, recommend
from serving.api.routes.requests import past_request
from serving.api.routes.users import user

Handler = Callable[[Request], Awaitable[Response]]


Access = Scope | Literal["public"]
"""A scope, or ``public``: anyone may."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter in the path or the query string."""

    name: str
    place: str
    """``path``, ``query`` or ``header``."""
    schema: dict[str, Any]
    about: str


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route."""

    method: str
    path: str
    handler: Handler
    access: Access
    """What a caller must be allowed; no default, so that nobody forgets it."""
    tag: str
    summary: str
    description: str
    request: Any = None
    """Type of the body; ``None`` for none."""
    answer: Any
    """Type of the good answer; ``str`` for plain text."""
    status: int = 200
    """Of the good answer."""
    problems: tuple[Code, ...] = ()
    """What else it answers, apart from ``internal``."""
    unready: Any = None
    """Type of a 503 answer that is no ``ErrorResponse``."""
    parameters: tuple[Parameter, ...] = ()
    tells_stages: bool = False
    """Whether the good answer says where its time went."""

    @property
    def route_path(self) -> str:
        """The path as the router wants it: identities may hold a slash."""
        return self.path.replace("_id}", "_id:path}")


_BODY: tuple[Code, ...] = ("malformed", "too_large", "invalid")
_TIMEOUT = Parameter(
    name=TIMEOUT_HEADER,
    place="header",
    schema={"type": "integer", "minimum": 1, "maximum": 999_999_999},
    about="How long the caller waits; the server allows at most RECSYS_MAX_DEADLINE_MS.",
)
_IDENTIFIER = {"type": "string", "minLength": 1, "maxLength": 128}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v1/recommendations",
        handler=recommend,
        access="serve",
        tag="recommendations",
        summary="The next best items of a user",
        description=(
            "Best first. An unknown user gets the cold start (`known` is false). `rung` says how "
            "the answer came about: `full`, or, when a stage failed or was late, `retrieval`, "
            "`similar`, `popular` or `static`; `degraded` says why."
        ),
        request=wire.RecommendRequest,
        answer=wire.RecommendResponse,
        parameters=(_TIMEOUT,),
        tells_stages=True,
        problems=(*_BODY, "overloaded", "not_found", "no_bundle"),
    ),
    Endpoint(
        method="POST",
        path="/v1/rank",
        handler=rank,
        access="serve",
        tag="recommendations",
        summary="Put given items in order for a user",
        description=(
            "Every distinct item comes back once. Items the live bundle does not know stand at the "
            "end, in the order given, with `known` false and no score."
        ),
        request=wire.RankRequest,
        answer=wire.RankResponse,
        parameters=(_TIMEOUT,),
        tells_stages=True,
        problems=(*_BODY, "overloaded", "not_found", "no_bundle"),
    ),
    Endpoint(
        method="GET",
        path="/v1/items/{item_id}/similar",
        handler=similar,
        access="serve",
        tag="items",
        summary="The nearest other items of an item",
        description="By cosine of the item embeddings, nearest first.",
        answer=wire.SimilarResponse,
        problems=("malformed", "not_found", "invalid", "no_bundle", "unavailable", "late"),
        parameters=(
            _TIMEOUT,
            Parameter(name="item_id", place="path", schema=_IDENTIFIER, about="The item."),
            Parameter(
                name="k",
                place="query",
                schema={
                    "type": "integer",
                    "minimum": 1,
                    "maximum": wire.MAX_K,
                    "default": DEFAULT_K,
                },
                about="Items wanted.",
            ),
        ),
    ),
    Endpoint(
        method="POST",
        path="/v1/events",
        handler=events,
        access="ingest",
        tag="events",
        summary="Take in one event, or many",
        description=(
            "A body is one event, a list of events, or an object with a list `events`. Each is "
            "judged alone. "
            "202 means: the accepted ones are acknowledged by the log or, while that is away, on "
            "disk until it is back. One sent again counts once "
            "if its second record lies at most 10,000 records after the first in its partition. "
            "When none is accepted the answer is 400 or 422, and nothing was kept."
        ),
        request=Event,
        answer=wire.EventsResponse,
        status=202,
        problems=(*_BODY, "all_refused", "unavailable", "overloaded"),
    ),
    Endpoint(
        method="GET",
        path="/v1/users/{user_id}",
        handler=user,
        access="admin",
        tag="users",
        summary="What the system knows about a user now",
        description=(
            "Attributes with their age, windowed features, history. An unknown user is answered "
            "too, with `known` false, a profile that is `missing` and empty features."
        ),
        answer=wire.UserResponse,
        problems=("malformed", "invalid", "no_bundle", "unavailable", "overloaded", "late"),
        parameters=(
            _TIMEOUT,
            Parameter(name="user_id", place="path", schema=_IDENTIFIER, about="The user."),
        ),
    ),
    Endpoint(
        method="GET",
        path="/v1/requests/{request_id}",
        handler=past_request,
        access="admin",
        tag="requests",
        summary="A past answer computed again, with any difference shown",
        description=(
            "From the exposure log and the bundle, in a process of its own that takes seconds. "
            "`equal` means equal to the last bit; a part that cannot be computed again says why."
        ),
        answer=wire.ReplayResponse,
        problems=("malformed", "not_found", "invalid", "unavailable", "overloaded"),
        parameters=(
            Parameter(
                name="request_id", place="path", schema=_IDENTIFIER, about="Of the answer."
            ),
            Parameter(
                name="contributions",
                place="query",
                schema={"type": "boolean", "default": False},
                about="Say which features made the scores.",
            ),
        ),
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        handler=healthz,
        access="public",
        tag="operations",
        summary="Whether the process lives",
        description="Asks no other part.",
        answer=wire.Health,
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        handler=readyz,
        access="public",
        tag="operations",
        summary="Whether requests should come to this process, and how the parts are",
        description=(
            "503 while the process takes its first bundle up, when it cannot read it, and once it "
            "was told to stop; 200 otherwise. `checks` says how Redis, Kafka, Triton, the spools, "
            "the live bundle and the features are, and does not decide: a part that is away is "
            "away for every process, and lower rungs and spools serve without it. Where keys "
            "are asked for, `detail` is told to the scope `admin` alone."
        ),
        answer=wire.Readiness,
        unready=wire.Readiness,
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics,
        access="admin",
        tag="operations",
        summary="Metrics in Prometheus' text format",
        description="Names, units and meanings stand in `recsys/telemetry.py`.",
        answer=str,
    ),
)  # fmt: skip
