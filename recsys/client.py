"""Typed Python client of the HTTP API, sync and async.

>>> from recsys import Client                                           # doctest: +SKIP
>>> with Client("http://127.0.0.1:8080") as recsys:                     # doctest: +SKIP
...     answer = recsys.recommend("user-17", k=5, explain=True)
...     for item in answer.items:
...         print(item.position, item.item_id, item.score)
...     recsys.send_events([{"kind": "interaction", "event_id": "…", ...}])

Connections are pooled and kept. Every call of the API may be repeated without harm (events carry
ids), so all are tried again, with growing pauses, when the connection fails or the server says it
is busy. What is wrong with a request raises InputError at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from recsys.errors import DeadlineExceededError, InputError, RecsysError, ServerError, StageError
from recsys.events.codec import encode
from recsys.events.schema import Event
from recsys.wire import (
    ErrorResponse,
    EventsResponse,
    Filters,
    RankRequest,
    RankResponse,
    Readiness,
    RecommendRequest,
    RecommendResponse,
    SimilarResponse,
    UserResponse,
)

Answer = TypeVar("Answer")
EventLike = Event | Mapping[str, Any]
"""An event, or the mapping that would be its JSON."""

_RETRIED_STATUS = frozenset({429, 502, 503, 504})
_encode = msgspec.json.Encoder().encode
_NO_FILTERS = Filters()


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Patience of a client."""

    timeout_s: float = 5.0
    """For one try, connecting included."""
    retries: int = 2
    """Tries after the first."""
    backoff_s: float = 0.1
    """Pause before the second try; doubled before each further one."""
    max_connections: int = 100
    """Kept in the pool."""


class NotFoundError(InputError):
    """The API knows no such item."""


class NothingPublishedError(ServerError):
    """No bundle is live, so nothing can be recommended yet."""


@dataclass(frozen=True, slots=True)
class _Call(Generic[Answer]):
    """One call: what to send, and what its answer is."""

    method: str
    path: str
    answer: type[Answer]
    body: bytes | None = None
    also_good: int = 0
    """A further status that carries the answer."""

    def read(self, response: httpx.Response) -> Answer:
        """Give the answer. Raises RecsysError when it is an error."""
        status = response.status_code
        if status < 400 or status == self.also_good:
            try:
                return msgspec.json.decode(response.content, type=self.answer)
            except msgspec.MsgspecError as error:
                raise ServerError(
                    f"wanted {self.answer.__name__} from {self.method} {self.path}, found another "
                    f"body ({error}); is this the API, and of this version?"
                ) from error
        raise _error_of(self, response)


class _Calls:
    """Builds the calls both clients make."""

    @staticmethod
    def recommend(request: RecommendRequest) -> _Call[RecommendResponse]:
        return _Call("POST", "/v1/recommendations", RecommendResponse, _encode(request))

    @staticmethod
    def rank(request: RankRequest) -> _Call[RankResponse]:
        return _Call("POST", "/v1/rank", RankResponse, _encode(request))

    @staticmethod
    def similar(item_id: str, k: int) -> _Call[SimilarResponse]:
        path = f"/v1/items/{quote(item_id, safe='')}/similar?k={k}"
        return _Call("GET", path, SimilarResponse)

    @staticmethod
    def events(events: Iterable[EventLike]) -> _Call[EventsResponse]:
        encoded = [e if isinstance(e, Mapping) else msgspec.Raw(encode(e)) for e in events]
        return _Call("POST", "/v1/events", EventsResponse, _encode(encoded))

    @staticmethod
    def user(user_id: str) -> _Call[UserResponse]:
        return _Call("GET", f"/v1/users/{quote(user_id, safe='')}", UserResponse)

    @staticmethod
    def ready() -> _Call[Readiness]:
        return _Call("GET", "/readyz", Readiness, also_good=503)


def _recommend_request(
    user_id: str,
    k: int,
    exclude_item_ids: Sequence[str],
    exclude_seen: bool,
    filters: Filters,
    context: Mapping[str, str],
    explain: bool,
    options: Mapping[str, Any],
) -> RecommendRequest:
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


class Client:
    """Calls the API and waits for it. Thread-safe."""

    def __init__(
        self, base_url: str = "http://127.0.0.1:8080", config: ClientConfig | None = None
    ) -> None:
        self._config = config or ClientConfig()
        self._http = httpx.Client(**_options(base_url, self._config))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def recommend(
        self,
        user_id: str,
        k: int = 10,
        *,
        exclude_item_ids: Sequence[str] = (),
        exclude_seen: bool = True,
        filters: Filters = _NO_FILTERS,
        context: Mapping[str, str] = {},
        explain: bool = False,
        **options: Any,
    ) -> RecommendResponse:
        """Give the next best items of a user; ``options`` are further ``RecommendRequest`` fields.

        Raises:
            InputError: when the request is refused; ``field`` says where.
            ServerError: when the API cannot be reached or nothing is published.
            StageError: when a stage of it failed.
        """
        request = _recommend_request(
            user_id, k, exclude_item_ids, exclude_seen, filters, context, explain, options
        )
        return self._send(_Calls.recommend(request))

    def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """Put items in order for a user; ``options`` are further ``RankRequest`` fields."""
        request = RankRequest(user_id=user_id, item_ids=list(item_ids), **options)
        return self._send(_Calls.rank(request))

    def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """Give the nearest other items. Raises NotFoundError for an unknown item."""
        return self._send(_Calls.similar(item_id, k))

    def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """Send events; returns once the log has acknowledged the good ones.

        Raises:
            InputError: when none was taken. Look at ``refusals`` of the answer otherwise.
        """
        return self._send(_Calls.events(events))

    def user(self, user_id: str) -> UserResponse:
        """Give what the system knows about a user now."""
        return self._send(_Calls.user(user_id))

    def ready(self) -> Readiness:
        """Give whether requests can be served, part by part."""
        return self._send(_Calls.ready())

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _send(self, call: _Call[Answer]) -> Answer:
        for pause_s in _pauses(self._config):
            try:
                response = self._http.request(call.method, call.path, content=call.body)
            except httpx.TransportError as error:
                if pause_s is None:
                    raise _unreachable(self._http, error) from error
            else:
                if pause_s is None or not _is_worth_a_retry(call, response):
                    return call.read(response)
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


class AsyncClient:
    """Calls the API from an event loop. See ``Client``."""

    def __init__(
        self, base_url: str = "http://127.0.0.1:8080", config: ClientConfig | None = None
    ) -> None:
        self._config = config or ClientConfig()
        self._http = httpx.AsyncClient(**_options(base_url, self._config))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def recommend(
        self,
        user_id: str,
        k: int = 10,
        *,
        exclude_item_ids: Sequence[str] = (),
        exclude_seen: bool = True,
        filters: Filters = _NO_FILTERS,
        context: Mapping[str, str] = {},
        explain: bool = False,
        **options: Any,
    ) -> RecommendResponse:
        """See ``Client.recommend``."""
        request = _recommend_request(
            user_id, k, exclude_item_ids, exclude_seen, filters, context, explain, options
        )
        return await self._send(_Calls.recommend(request))

    async def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """See ``Client.rank``."""
        request = RankRequest(user_id=user_id, item_ids=list(item_ids), **options)
        return await self._send(_Calls.rank(request))

    async def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """See ``Client.similar``."""
        return await self._send(_Calls.similar(item_id, k))

    async def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """See ``Client.send_events``."""
        return await self._send(_Calls.events(events))

    async def user(self, user_id: str) -> UserResponse:
        """See ``Client.user``."""
        return await self._send(_Calls.user(user_id))

    async def ready(self) -> Readiness:
        """See ``Client.ready``."""
        return await self._send(_Calls.ready())

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _send(self, call: _Call[Answer]) -> Answer:
        for pause_s in _pauses(self._config):
            try:
                response = await self._http.request(call.method, call.path, content=call.body)
            except httpx.TransportError as error:
                if pause_s is None:
                    raise _unreachable(self._http, error) from error
            else:
                if pause_s is None or not _is_worth_a_retry(call, response):
                    return call.read(response)
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def _options(base_url: str, config: ClientConfig) -> dict[str, Any]:
    return {
        "base_url": base_url,
        "timeout": config.timeout_s,
        "limits": httpx.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
        ),
        "headers": {"content-type": "application/json"},
    }


def _pauses(config: ClientConfig) -> list[float | None]:
    """Give the pause after each try; ``None`` marks the last one."""
    return [*(config.backoff_s * 2**attempt for attempt in range(config.retries)), None]


def _is_worth_a_retry(call: _Call[Any], response: httpx.Response) -> bool:
    if response.status_code not in _RETRIED_STATUS or response.status_code == call.also_good:
        return False
    # Waiting does not publish a bundle.
    return not isinstance(_error_of(call, response), NothingPublishedError)


def _error_of(call: _Call[Any], response: httpx.Response) -> RecsysError:
    try:
        error = msgspec.json.decode(response.content, type=ErrorResponse).error
    except msgspec.MsgspecError:
        return ServerError(
            f"wanted an answer to {call.method} {call.path}, found status {response.status_code} "
            "from something that is not the API; look at the address"
        )
    match error.code:
        case "not_found":
            return NotFoundError(error.message, field=error.field)
        case "no_bundle":
            return NothingPublishedError(error.message)
        case "late":
            return DeadlineExceededError(error.message, stage="api")
        case "unavailable" | "overloaded" | "internal":
            return StageError(error.message, stage="api")
        case _:
            return InputError(error.message, field=error.field)


def _unreachable(
    http: httpx.Client | httpx.AsyncClient, error: httpx.TransportError
) -> ServerError:
    return ServerError(
        f"the API at {http.base_url} does not answer: {type(error).__name__}: {error}; "
        "see `recsys status`"
    )
