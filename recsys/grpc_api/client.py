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
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import msgspec

from recsys.api_calls import EventLike
from recsys.api_errors import error_of, key_in_force
from recsys.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    RecsysError,
    ServerError,
)
from recsys.grpc_api.convert import to_mapping, to_message
from recsys.grpc_api.methods import METHODS, SERVICE, Method
from recsys.grpc_api.schema import message_class
from recsys.grpc_api.statuses import CODE_KEY, FIELD_KEY
from recsys.wire import (
    EventsResponse,
    RankResponse,
    RecommendResponse,
    SimilarResponse,
    UserResponse,
)

_METHODS = {method.name: method for method in METHODS}
_MAX_TRIES = 5
"""gRPC makes no more, whatever it is told."""


@dataclass(frozen=True, kw_only=True)
class GrpcConfig:
    """Patience of a client."""

    timeout_s: float = 5.0
    """For a call, all its tries together."""
    retries: int = 2
    """Tries after the first, at most 4."""
    backoff_s: float = 0.1
    """About the pause before the second try; doubled before each further one."""
    connections: int = 1
    api_key: str | None = field(default=None, repr=False)
    """Key or token sent along; unset: ``RECSYS_API_KEY`` of the environment, if any."""
    tls: bool = False
    """Whether the server speaks TLS; set by ``cafile`` too."""
    cafile: str | None = None
    """PEM authorities its certificate is checked with; unset: those gRPC comes with."""
    certfile: str | None = None
    """PEM certificate of ours, where the server asks for one, its key in the same file."""


class _Calls:
    """What both clients have in common: how a call is put, and its answer read."""

    def __init__(self, address: str, config: GrpcConfig | None) -> None:
        self.address = address
        self._config = config or GrpcConfig()
        if not 0 <= self._config.retries < _MAX_TRIES or self._config.connections < 1:
            raise ConfigurationError(
                f"GrpcConfig: wanted 0 to {_MAX_TRIES - 1} retries and at least 1 connection, "
                f"found {self._config.retries} and {self._config.connections}"
            )
        api_key = key_in_force(self._config.api_key)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    def _options(self) -> list[tuple[str, Any]]:
        policy = {
            "methodConfig": [
                {
                    "name": [{"service": SERVICE}],
                    "retryPolicy": {
                        "maxAttempts": self._config.retries + 1,
                        "initialBackoff": f"{self._config.backoff_s:.3f}s",
                        "maxBackoff": f"{self._config.backoff_s * 2**_MAX_TRIES:.3f}s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
        if not self._config.retries:
            policy = {}
        return [
            ("grpc.service_config", json.dumps(policy)),
            ("grpc.enable_retries", int(self._config.retries > 0)),
            # Else channels to one address share a connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", 30_000),
        ]

    def _credentials(self) -> grpc.ChannelCredentials | None:
        config = self._config
        if not (config.tls or config.cafile or config.certfile):
            return None
        try:
            authorities = Path(config.cafile).read_bytes() if config.cafile else None
            ours = Path(config.certfile).read_bytes() if config.certfile else None
        except OSError as error:
            raise ConfigurationError(f"GrpcConfig: {error}") from error
        return grpc.ssl_channel_credentials(authorities, ours, ours)

    def _put(self, method: str, given: Mapping[str, Any]) -> Any:
        try:
            return to_message(_METHODS[method].request.__name__, given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{method}: {error}") from error

    @staticmethod
    def _read(method: str, message: Any) -> Any:
        return msgspec.convert(to_mapping(message), _METHODS[method].answer)

    def _failed(self, error: grpc.RpcError) -> RecsysError:
        said = dict(error.trailing_metadata() or ())
        details = str(error.details())
        if CODE_KEY in said:
            field = said.get(FIELD_KEY, b"").decode()
            return error_of(said[CODE_KEY], details, field)
        status = error.code()
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(
                f"no answer from {self.address} within {self._config.timeout_s:g} s", stage="api"
            )
        return ServerError(
            f"the API at {self.address} does not answer: {status.name}: {details}; "
            "see `recsys status`"
        )


def _given(options: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Give the fields of a request that are said, as JSON would have them."""
    both = fields | dict(options)
    said: dict[str, Any] = msgspec.to_builtins({k: v for k, v in both.items() if v is not None})
    return said


def _events(events: Iterable[EventLike]) -> dict[str, Any]:
    return {
        "events": [dict(e) if isinstance(e, Mapping) else msgspec.to_builtins(e) for e in events]
    }


def _stub(channel: Any, method: Method) -> Any:
    return channel.unary_unary(
        method.full_name,
        request_serializer=message_class(method.request.__name__).SerializeToString,
        response_deserializer=message_class(method.answer.__name__).FromString,
    )


class GrpcClient(_Calls):
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
            name: itertools.cycle([_stub(channel, method) for channel in self._channels])
            for name, method in _METHODS.items()
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
        answer: RecommendResponse = self._call("Recommend", _given(options, user_id=user_id, k=k))
        return answer

    def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """Put items in order for a user; ``options`` are further ``RankRequest`` fields."""
        given = _given(options, user_id=user_id, item_ids=list(item_ids))
        answer: RankResponse = self._call("Rank", given)
        return answer

    def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """Give the nearest other items. Raises NotFoundError for an unknown item."""
        answer: SimilarResponse = self._call("Similar", {"item_id": item_id, "k": k})
        return answer

    def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """Send events; returns once the log has acknowledged the good ones."""
        answer: EventsResponse = self._call("SendEvents", _events(events))
        return answer

    def user(self, user_id: str) -> UserResponse:
        """Give what the system knows about a user now."""
        answer: UserResponse = self._call("GetUser", {"user_id": user_id})
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        for channel in self._channels:
            channel.close()

    def _call(self, method: str, given: Mapping[str, Any]) -> Any:
        request = self._put(method, given)
        try:
            message = next(self._stubs[method])(
                request, timeout=self._config.timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise self._failed(error) from error
        return self._read(method, message)


class AsyncGrpcClient(_Calls):
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
            name: itertools.cycle([_stub(channel, method) for channel in self._channels])
            for name, method in _METHODS.items()
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
        given = _given(options, user_id=user_id, k=k)
        answer: RecommendResponse = await self._call("Recommend", given)
        return answer

    async def rank(self, user_id: str, item_ids: Sequence[str], **options: Any) -> RankResponse:
        """See ``GrpcClient.rank``."""
        given = _given(options, user_id=user_id, item_ids=list(item_ids))
        answer: RankResponse = await self._call("Rank", given)
        return answer

    async def similar(self, item_id: str, k: int = 10) -> SimilarResponse:
        """See ``GrpcClient.similar``."""
        answer: SimilarResponse = await self._call("Similar", {"item_id": item_id, "k": k})
        return answer

    async def send_events(self, events: Iterable[EventLike]) -> EventsResponse:
        """See ``GrpcClient.send_events``."""
        answer: EventsResponse = await self._call("SendEvents", _events(events))
        return answer

    async def user(self, user_id: str) -> UserResponse:
        """See ``GrpcClient.user``."""
        answer: UserResponse = await self._call("GetUser", {"user_id": user_id})
        return answer

    async def close(self) -> None:
        """Let go of the connections."""
        for channel in self._channels:
            await channel.close()

    async def _call(self, method: str, given: Mapping[str, Any]) -> Any:
        request = self._put(method, given)
        try:
            message = await next(self._stubs[method])(
                request, timeout=self._config.timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise self._failed(error) from error
        return self._read(method, message)
