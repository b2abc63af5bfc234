"""Request bodies and parameters to typed values, or a problem that names the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from recsys.events.schema import IDENTIFIER_PATTERN
from recsys.json_errors import explain
from recsys.wire import MAX_BODY_BYTES
from serving.api.problems import Code, Problem

T = TypeVar("T")

MAX_IDENTIFIER_LENGTH = 128
_is_identifier = re.compile(IDENTIFIER_PATTERN).fullmatch
_MAX_SHOWN = 64


async def read_body(request: Request) -> bytes:
    """Give the body.

    Raises:
        Problem: ``too_large``, before more than ``MAX_BODY_BYTES`` were taken in.
        ClientDisconnect: when the caller went away.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > MAX_BODY_BYTES:
        raise _too_large(stated)
    message = await request.receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(str(len(body)))
        return body
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise _too_large(f"more than {size}")
    return b"".join(parts)


def _too_large(found: str) -> Problem:
    return Problem(
        "too_large",
        f"wanted a body of at most {MAX_BODY_BYTES} bytes, found {found}; send it in parts",
    )


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Give the value of a body.

    Raises:
        Problem: ``malformed`` when it is not JSON in UTF-8, ``invalid`` with the field otherwise.
    """
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:
        why = explain(body, error, decoder.decode)
        code: Code = "malformed" if why.malformed else "invalid"
        raise Problem(code, why.message, field=why.field) from error


def check_identifier(value: str, field: str) -> str:
    """Give ``value`` when it can be an identity.

    Raises:
        Problem: ``invalid`` otherwise.
    """
    if not 0 < len(value) <= MAX_IDENTIFIER_LENGTH:
        raise Problem(
            "invalid",
            f"{field}: wanted 1 to {MAX_IDENTIFIER_LENGTH} characters, found {len(value)}",
            field=field,
        )
    if not _is_identifier(value):
        raise Problem(
            "invalid",
            f"{field}: wanted no control characters, found {value[:_MAX_SHOWN]!r}",
            field=field,
        )
    return value


def integer_parameter(
    request: Request, name: str, *, default: int, lowest: int, highest: int
) -> int:
    """Give an integer of the query string.

    Raises:
        Problem: ``invalid`` when it is no such integer.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if re.fullmatch(r"-?[0-9]{1,18}", text) and lowest <= int(text) <= highest:
        return int(text)
    raise Problem(
        "invalid",
        f"{name}: wanted an integer from {lowest} to {highest}, found {text[:_MAX_SHOWN]!r}",
        field=name,
    )


def refuse_unknown_parameters(request: Request, known: frozenset[str]) -> None:
    """Raise Problem ``invalid`` when the query string has a parameter that is not ``known``."""
    for name in request.query_params:
        if name not in known:
            wanted = ", ".join(sorted(known)) or "none"
            raise Problem(
                "invalid",
                f"{name[:_MAX_SHOWN]}: wanted only known parameters ({wanted}), found another",
                field=name[:_MAX_SHOWN],
            )
