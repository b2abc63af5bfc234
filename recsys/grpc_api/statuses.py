"""Which gRPC status is which error of the HTTP API (``docs/api.md``), and where the rest is said.

The trailing metadata hold the code and the field of the problem in full; several codes share a
status.
"""

from __future__ import annotations

import grpc

CODE_KEY = "recsys-code"
"""Trailing metadata: the error's code, as in the HTTP API."""
FIELD_KEY = "recsys-field-bin"
"""Trailing metadata: path of the offending field in UTF-8, where there is one. Binary, since a key
of a caller's own making may hold anything."""
RETRY_AFTER_KEY = "retry-after"
"""Trailing metadata: seconds after which a second try may help."""

_Status = grpc.StatusCode
STATUSES: dict[str, grpc.StatusCode] = {
    "malformed": _Status.INVALID_ARGUMENT,
    "invalid": _Status.INVALID_ARGUMENT,
    "all_refused": _Status.INVALID_ARGUMENT,
    "too_large": _Status.INVALID_ARGUMENT,
    "unauthenticated": _Status.UNAUTHENTICATED,
    "forbidden": _Status.PERMISSION_DENIED,
    "not_found": _Status.NOT_FOUND,
    "method_not_allowed": _Status.UNIMPLEMENTED,
    "rate_limited": _Status.RESOURCE_EXHAUSTED,
    "no_bundle": _Status.FAILED_PRECONDITION,
    "unavailable": _Status.UNAVAILABLE,
    "overloaded": _Status.UNAVAILABLE,
    "late": _Status.DEADLINE_EXCEEDED,
    "internal": _Status.INTERNAL,
}
"""By code. What another try may mend is UNAVAILABLE, which clients of gRPC try again."""


def status_of(code: str) -> grpc.StatusCode:
    """Give the status of an error's code; INTERNAL for one that is new."""
    return STATUSES.get(code, _Status.INTERNAL)
