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
from types import TracebackType
from typing import Any, Self

import httpx

from recsys import api_calls
from recsys.api_calls import Answer, Call, EventLike
from recsys.api_errors import (
    API_KEY_VARIABLE,
    AccessDeniedError,
    NotFoundError,
    NothingPublishedError,
)
from recsys.api_http import (
    ClientConfig,
    http_options,
    is_worth_a_retry,
    pauses,
    read,
    timeout_s,
    unreachable,
)
from recsys.wire import (
    EventsResponse,
    Filters,
    RankRequest,
    RankResponse,
    Readiness,
    RecommendResponse,
    ReplayResponse,
    SimilarResponse,
    UserResponse,
)

__all__ = [
    "API_KEY_VARIABLE",
    "AccessDeniedError",
    "AsyncClient",
    "Client",
    "ClientConfig",
    "NotFoundError",
    "NothingPublishedError",
]

_NO_FILTERS = Filters()


class Client:
    """Calls the API and waits for it. Thread-safe."""

    def __init__(
        self, base_url: str = "http://127.0.0.1:8080", config: ClientConfig | None = None
    ) -> None:
        self._config = config or ClientConfig()
        self._http = httpx.Client(**http_options(base_url, self._config))

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
        request = api_calls.recommend_request(
            user_id, k, exclude_item_ids, exclude_seen, filters, context, explain, options
        )
        return self._send(api_calls.recommend(request))

    def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """Put items in order for a user; ``options`` are further ``RankRequest`` fields."""
        request = RankRequest(user_id=user_id, item_ids=list(item_ids), **options)
        return self._send(api_calls.rank(request))

    def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """Give the nearest other items. Raises NotFoundError for an unknown item."""
        return self._send(api_calls.similar(item_id, k))

    def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """Send events; returns once the log has acknowledged the good ones.

        Raises:
            InputError: when none was taken. Look at ``refusals`` of the answer otherwise.
        """
        return self._send(api_calls.events(events))

    def user(self, user_id: str) -> UserResponse:
        """Give what the system knows about a user now."""
        return self._send(api_calls.user(user_id))

    def past_answer(self, request_id: str, *, contributions: bool = False) -> ReplayResponse:
        """Give a past answer computed again (scope ``admin``), with any difference.

        ``contributions``: say which features made the scores. Takes seconds. Raises NotFoundError
        when no such answer is on record.
        """
        return self._send(api_calls.past_answer(request_id, contributions))

    def ready(self) -> Readiness:
        """Give whether requests should come to this process, and how the parts are."""
        return self._send(api_calls.ready())

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _send(self, call: Call[Answer]) -> Answer:
        for pause_s in pauses(self._config):
            try:
                response = self._http.request(
                    call.method,
                    call.path,
                    content=call.body,
                    timeout=timeout_s(call, self._config),
                )
            except httpx.TransportError as error:
                if pause_s is None:
                    raise unreachable(self._http, error) from error
            else:
                if pause_s is None or not is_worth_a_retry(call, response):
                    return read(call, response)
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


class AsyncClient:
    """Calls the API from an event loop. See ``Client``."""

    def __init__(
        self, base_url: str = "http://127.0.0.1:8080", config: ClientConfig | None = None
    ) -> None:
        self._config = config or ClientConfig()
        self._http = httpx.AsyncClient(**http_options(base_url, self._config))

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
        request = api_calls.recommend_request(
            user_id, k, exclude_item_ids, exclude_seen, filters, context, explain, options
        )
        return await self._send(api_calls.recommend(request))

    async def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """See ``Client.rank``."""
        request = RankRequest(user_id=user_id, item_ids=list(item_ids), **options)
        return await self._send(api_calls.rank(request))

    async def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """See ``Client.similar``."""
        return await self._send(api_calls.similar(item_id, k))

    async def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """See ``Client.send_events``."""
        return await self._send(api_calls.events(events))

    async def user(self, user_id: str) -> UserResponse:
        """See ``Client.user``."""
        return await self._send(api_calls.user(user_id))

    async def past_answer(self, request_id: str, *, contributions: bool = False) -> ReplayResponse:
        """See ``Client.past_answer``."""
        return await self._send(api_calls.past_answer(request_id, contributions))

    async def ready(self) -> Readiness:
        """See ``Client.ready``."""
        return await self._send(api_calls.ready())

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _send(self, call: Call[Answer]) -> Answer:
        for pause_s in pauses(self._config):
            try:
                response = await self._http.request(
                    call.method,
                    call.path,
                    content=call.body,
                    timeout=timeout_s(call, self._config),
                )
            except httpx.TransportError as error:
                if pause_s is None:
                    raise unreachable(self._http, error) from error
            else:
                if pause_s is None or not is_worth_a_retry(call, response):
                    return read(call, response)
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")
