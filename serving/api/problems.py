"""What can be wrong with a request, as one JSON shape: ``{"error": {code, message, field}}``.

The table in ``docs/api.md`` lists every code; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from starlette.responses import Response

from recsys.errors import (
    DeadlineExceededError,
    InputError,
    OverloadedError,
    RecsysError,
    ServerError,
    StageError,
)
from recsys.wire import Error, ErrorResponse, EventRefusal

Code = Literal[
    "malformed", "unauthenticated", "forbidden", "invalid", "all_refused", "too_large",
    "not_found", "method_not_allowed", "rate_limited", "no_bundle", "unavailable",
    "overloaded", "late", "internal",
]  # fmt: skip

STATUS: dict[Code, int] = {
    "malformed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "invalid": 422,
    "all_refused": 422,
    "rate_limited": 429,
    "internal": 500,
    "no_bundle": 503,
    "unavailable": 503,
    "overloaded": 503,
    "late": 504,
}
RETRY_AFTER_S = 1
"""Told to callers where waiting may help."""

_encode = msgspec.json.Encoder().encode


class Problem(Exception):  # noqa: N818  an answer, not a failure of ours
    """An answer from 400 on."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str = "",
        refusals: Sequence[EventRefusal] = (),
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is wrong; ``close`` ends the connection after the answer."""
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field
        self.refusals = list(refusals)
        self.close = close
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Give the answer."""
        body = ErrorResponse(
            error=Error(code=self.code, message=self.message, field=self.field),
            refused=len(self.refusals),
            refusals=self.refusals,
        )
        status = STATUS[self.code]
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (503, 504) else {}
        headers |= self.headers
        if self.close:
            headers["Connection"] = "close"
        return Response(
            _encode(body), status_code=status, headers=headers, media_type="application/json"
        )


def problem_of(error: RecsysError) -> Problem:
    """Give the answer for an error the library explains."""
    match error:
        case InputError():
            return Problem("invalid", str(error), field=error.field)
        case OverloadedError():
            return Problem("overloaded", str(error))
        case DeadlineExceededError():
            return Problem("late", str(error))
        case StageError() | ServerError():
            return Problem("unavailable", str(error))
        case _:
            return Problem("internal", str(error))


def no_bundle() -> Problem:
    """Give the answer while nothing is published."""
    return Problem(
        "no_bundle",
        "no bundle is live yet, so nothing can be recommended; run `recsys train`, then "
        "`recsys publish`; events are taken meanwhile",
    )
