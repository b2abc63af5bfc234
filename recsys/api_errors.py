"""The errors of the API at the caller's end, whichever way it was called."""

from __future__ import annotations

import os

from recsys.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    OverloadedError,
    RecsysError,
    ServerError,
    StageError,
)

API_KEY_VARIABLE = "RECSYS_API_KEY"


class NotFoundError(InputError):
    """The API knows no such item."""


class AccessDeniedError(ConfigurationError):
    """The API wants a key, another key, or one with another scope."""


class NothingPublishedError(ServerError):
    """No bundle is live, so nothing can be recommended yet."""


def error_of(code: str, message: str, field: str) -> RecsysError:
    """Give the error that an answer tells of: its code, what it says, and of which field."""
    match code:
        case "not_found":
            return NotFoundError(message, field=field)
        case "no_bundle":
            return NothingPublishedError(message)
        case "unauthenticated" | "forbidden":
            return AccessDeniedError(f"{message}; set {API_KEY_VARIABLE} or ClientConfig.api_key")
        case "rate_limited":
            return OverloadedError(message, stage="api")
        case "late":
            return DeadlineExceededError(message, stage="api")
        case "unavailable" | "overloaded" | "internal":
            return StageError(message, stage="api")
        case _:
            return InputError(message, field=field)


def key_in_force(api_key: str | None) -> str | None:
    """Give the key to send along: the given one, else the environment's, if any.

    Raises:
        ConfigurationError: when it cannot stand in a header.
    """
    found = api_key or os.environ.get(API_KEY_VARIABLE)
    if found and (not (found.isascii() and found.isprintable()) or " " in found):
        raise ConfigurationError(
            f"{API_KEY_VARIABLE}: wanted a key or token without spaces, found other characters"
        )
    return found or None
