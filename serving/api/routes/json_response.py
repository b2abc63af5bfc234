"""JSON answers, encoded by msgspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_response(
    value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Give a response with ``value`` as its body."""
    return Response(
        _encode(value), status_code=status_code, headers=headers, media_type="application/json"
    )
