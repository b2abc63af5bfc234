"""What both clients of the gRPC twin have in common: how a call is put, and its answer read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import msgspec

from recsys.api_calls import PAST_ANSWER_S, EventLike
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

BY_NAME = {method.name: method for method in METHODS}
"""The methods that can be called."""
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


class Calls:
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

    def _timeout_s(self, method: str) -> float:
        return max(self._config.timeout_s, PAST_ANSWER_S if method == "GetPastAnswer" else 0.0)

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
            return to_message(BY_NAME[method].request.__name__, given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{method}: {error}") from error

    @staticmethod
    def _read(method: str, message: Any) -> Any:
        return msgspec.convert(to_mapping(message), BY_NAME[method].answer)

    def _failed(self, error: grpc.RpcError, timeout_s: float) -> RecsysError:
        said = dict(error.trailing_metadata() or ())
        details = str(error.details())
        if CODE_KEY in said:
            field = said.get(FIELD_KEY, b"").decode()
            return error_of(said[CODE_KEY], details, field)
        status = error.code()
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(
                f"no answer from {self.address} within {timeout_s:g} s", stage="api"
            )
        return ServerError(
            f"the API at {self.address} does not answer: {status.name}: {details}; "
            "see `recsys status`"
        )


def given(options: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Give the fields of a request that are said, as JSON would have them."""
    both = fields | dict(options)
    said: dict[str, Any] = msgspec.to_builtins({k: v for k, v in both.items() if v is not None})
    return said


def events_given(events: Iterable[EventLike]) -> dict[str, Any]:
    """Give the request that sends events."""
    return {
        "events": [dict(e) if isinstance(e, Mapping) else msgspec.to_builtins(e) for e in events]
    }


def stub(channel: Any, method: Method) -> Any:
    """Give what calls a method over a channel, blocking or not as the channel is."""
    return channel.unary_unary(
        method.full_name,
        request_serializer=message_class(method.request.__name__).SerializeToString,
        response_deserializer=message_class(method.answer.__name__).FromString,
    )
