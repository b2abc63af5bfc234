"""Typed Python client of the gRPC twin, sync and async: the calls and answers of ``recsys.client``.

>>> from recsys.grpc_api.client import GrpcClient                      # doctest: +SKIP
>>> with GrpcClient("127.0.0.1:8090") as recsys:                        # doctest: +SKIP
...     answer = recsys.recommend("user-17", k=5)

``timeout_s`` is the deadline of a call, its repetitions included; the server is told of it. gRPC
itself tries again, with growing pauses, where the server is away or busy, and stops doing so while
most calls fail. One connection carries many calls at once; more of them are for callers that send
more than one connection's worth.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from recsys.api_calls import EventLike
from recsys.grpc_api.calling import BY_NAME, Calls, GrpcConfig, events_given, given, stub
from recsys.wire import (
    EventsResponse,
    RankResponse,
    RecommendResponse,
    ReplayResponse,
    SimilarResponse,
    UserResponse,
)

__all__ = ["AsyncGrpcClient", "GrpcClient", "GrpcConfig"]


class GrpcClient(Calls):
    """Calls the service and waits for it. Thread-safe.

    Every method raises InputError for a wrong request, ServerError when the API cannot be reached
    or nothing is published, DeadlineExceededError when ``timeout_s`` passed, StageError when a
    stage of it failed.
    """

    def __init__(self, address: str = "127.0.0.1:8090", config: GrpcConfig | None = None) -> None:
        super().__init__(address, config)
        credentials, options = self._credentials(), self._options()
        self._channels = [
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
            for _ in range(self._config.connections)
        ]
        self._stubs = {
            name: itertools.cycle([stub(channel, method) for channel in self._channels])
            for name, method in BY_NAME.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def recommend(self, user_id: str, k: int = 10, **options: Any) -> RecommendResponse:
        """Give the next best items of a user; ``options`` are ``RecommendRequest`` fields."""
        answer: RecommendResponse = self._call("Recommend", given(options, user_id=user_id, k=k))
        return answer

    def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """Put items in order for a user; ``options`` are further ``RankRequest`` fields."""
        asked = given(options, user_id=user_id, item_ids=list(item_ids))
        answer: RankResponse = self._call("Rank", asked)
        return answer

    def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """Give the nearest other items. Raises NotFoundError for an unknown item."""
        answer: SimilarResponse = self._call("Similar", {"item_id": item_id, "k": k})
        return answer

    def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """Send events; returns once the log has acknowledged the good ones."""
        answer: EventsResponse = self._call("SendEvents", events_given(events))
        return answer

    def user(self, user_id: str) -> UserResponse:
        """Give what the system knows about a user now."""
        answer: UserResponse = self._call("GetUser", {"user_id": user_id})
        return answer

    def past_answer(self, request_id: str, *, contributions: bool = False) -> ReplayResponse:
        """Give a past answer computed again (scope ``admin``), with any difference.

        ``contributions``: say which features made the scores. Takes seconds. Raises NotFoundError
        when no such answer is on record.
        """
        asked = {"request_id": request_id, "contributions": contributions}
        answer: ReplayResponse = self._call("GetPastAnswer", asked)
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        for channel in self._channels:
            channel.close()

    def _call(self, method: str, asked: Mapping[str, Any]) -> Any:
        request, timeout_s = self._put(method, asked), self._timeout_s(method)
        try:
            message = next(self._stubs[method])(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failed(error, timeout_s) from error
        return self._read(method, message)


class AsyncGrpcClient(Calls):
    """Calls the service from an event loop. See ``GrpcClient``."""

    def __init__(self, address: str = "127.0.0.1:8090", config: GrpcConfig | None = None) -> None:
        super().__init__(address, config)
        credentials, options = self._credentials(), self._options()
        self._channels = [
            grpc.aio.insecure_channel(address, options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options)
            for _ in range(self._config.connections)
        ]
        self._stubs = {
            name: itertools.cycle([stub(channel, method) for channel in self._channels])
            for name, method in BY_NAME.items()
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def recommend(self, user_id: str, k: int = 10, **options: Any) -> RecommendResponse:
        """See ``GrpcClient.recommend``."""
        asked = given(options, user_id=user_id, k=k)
        answer: RecommendResponse = await self._call("Recommend", asked)
        return answer

    async def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """See ``GrpcClient.rank``."""
        asked = given(options, user_id=user_id, item_ids=list(item_ids))
        answer: RankResponse = await self._call("Rank", asked)
        return answer

    async def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """See ``GrpcClient.similar``."""
        answer: SimilarResponse = await self._call("Similar", {"item_id": item_id, "k": k})
        return answer

    async def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """See ``GrpcClient.send_events``."""
        answer: EventsResponse = await self._call("SendEvents", events_given(events))
        return answer

    async def user(self, user_id: str) -> UserResponse:
        """See ``GrpcClient.user``."""
        answer: UserResponse = await self._call("GetUser", {"user_id": user_id})
        return answer

    async def past_answer(self, request_id: str, *, contributions: bool = False) -> ReplayResponse:
        """See ``GrpcClient.past_answer``."""
        asked = {"request_id": request_id, "contributions": contributions}
        answer: ReplayResponse = await self._call("GetPastAnswer", asked)
        return answer

    async def close(self) -> None:
        """Let go of the connections."""
        for channel in self._channels:
            await channel.close()

    async def _call(self, method: str, asked: Mapping[str, Any]) -> Any:
        request, timeout_s = self._put(method, asked), self._timeout_s(method)
        try:
            message = await next(self._stubs[method])(
                request, timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise self._failed(error, timeout_s) from error
        return self._read(method, message)
