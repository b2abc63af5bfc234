"""A call of the API over HTTP: what goes along, when it is tried again, what its answer means.

The sync and the async client send; what they share is here.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from recsys.api_calls import Answer, Call
from recsys.api_errors import NothingPublishedError, error_of, key_in_force
from recsys.errors import RecsysError, ServerError
from recsys.security.tls import client_context
from recsys.wire import ErrorResponse

_RETRIED_STATUS = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Patience of a client."""

    timeout_s: float = 5.0
    """For one try, connecting included."""
    retries: int = 2
    """Tries after the first."""
    backoff_s: float = 0.1
    """Pause before the second try; doubled before each further one."""
    deadline_ms: int | None = None
    """Told to the API with each call: it answers from a lower rung rather than later. Unset: the
    API's own default. Leave ``timeout_s`` above it, for the way."""
    max_connections: int = 100
    """Kept in the pool."""
    api_key: str | None = field(default=None, repr=False)
    """Key or token sent along; unset: ``RECSYS_API_KEY`` of the environment, if any."""
    cafile: str | None = None
    """PEM authorities the API's certificate is checked with; unset: ``RECSYS_API_CAFILE``, else
    the system's."""
    certfile: str | None = None
    """PEM certificate and key of ours, where the API asks for one; unset:
    ``RECSYS_API_CERTFILE``."""


def http_options(base_url: str, config: ClientConfig) -> dict[str, Any]:
    """Give the arguments of the httpx client. Raises as ``client_context`` does."""
    headers = {"content-type": "application/json"}
    if api_key := key_in_force(config.api_key):
        headers["authorization"] = f"Bearer {api_key}"
    if config.deadline_ms is not None:
        headers["x-request-timeout-ms"] = str(config.deadline_ms)
    return {
        "base_url": base_url,
        "timeout": config.timeout_s,
        "limits": httpx.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
        ),
        "headers": headers,
        "verify": _tls(base_url, config),
    }


def _tls(base_url: str, config: ClientConfig) -> ssl.SSLContext | bool:
    if not base_url.startswith("https:"):
        return True
    cafile = config.cafile or os.environ.get("RECSYS_API_CAFILE")
    return client_context(cafile, config.certfile or os.environ.get("RECSYS_API_CERTFILE"))


def timeout_s(call: Call[Any], config: ClientConfig) -> float:
    """Give how long one try of a call may take."""
    return max(config.timeout_s, call.takes_s)


def pauses(config: ClientConfig) -> list[float | None]:
    """Give the pause after each try; ``None`` marks the last one."""
    return [*(config.backoff_s * 2**attempt for attempt in range(config.retries)), None]


def is_worth_a_retry(call: Call[Any], response: httpx.Response) -> bool:
    """Say whether another try may get another answer."""
    if response.status_code not in _RETRIED_STATUS or response.status_code == call.also_good:
        return False
    # Waiting does not publish a bundle.
    return not isinstance(_error_of(call, response), NothingPublishedError)


def read(call: Call[Answer], response: httpx.Response) -> Answer:
    """Give the answer. Raises RecsysError when it is an error."""
    status = response.status_code
    if status < 400 or status == call.also_good:
        try:
            return msgspec.json.decode(response.content, type=call.answer)
        except msgspec.MsgspecError as error:
            raise ServerError(
                f"wanted {call.answer.__name__} from {call.method} {call.path}, found another "
                f"body ({error}); is this the API, and of this version?"
            ) from error
    raise _error_of(call, response)


def _error_of(call: Call[Any], response: httpx.Response) -> RecsysError:
    try:
        error = msgspec.json.decode(response.content, type=ErrorResponse).error
    except msgspec.MsgspecError:
        return ServerError(
            f"wanted an answer to {call.method} {call.path}, found status {response.status_code} "
            "from something that is not the API; look at the address"
        )
    return error_of(error.code, error.message, error.field)


def unreachable(http: httpx.Client | httpx.AsyncClient, error: httpx.TransportError) -> ServerError:
    """Give the error for an API that does not answer."""
    return ServerError(
        f"the API at {http.base_url} does not answer: {type(error).__name__}: {error}; "
        "see `recsys status`"
    )
