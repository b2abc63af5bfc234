"""Request bodies and parameters to typed values, or a problem that names the field."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from recsys.events.schema import IDENTIFIER_PATTERN
from recsys.json_errors import explain
from recsys.wire import MAX_BODY_BYTES
from serving.api.problems import Code, Problem

T = TypeVar("T")

MAX_IDENTIFIER_LENGTH = 128
MAX_DISCARDED_BYTES = 8_000_000
"""So much of a body that is too large is read and thrown away before the answer."""
MAX_DISCARD_S = 2.0
_is_identifier = re.compile(IDENTIFIER_PATTERN).fullmatch
_MAX_SHOWN = 64


async def read_body(request: Request) -> bytes:
    """Give the body.

    A body that is too large is read to its end and thrown away, as far as it has at most
    ``MAX_DISCARDED_BYTES`` and comes within ``MAX_DISCARD_S``: a connection that is closed with
    unread bytes is reset, and the reset may overtake the answer.

    Raises:
        Problem: ``too_large``; of the body at most ``MAX_BODY_BYTES`` and one message were kept.
        ClientDisconnect: when the caller went away.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > MAX_BODY_BYTES:
        # Who asks before sending is told before sending. No body follows the headers then, so
        # that what comes next on this connection could not be told from it.
        asks = request.headers.get("expect", "").lower() == "100-continue"
        if not asks:
            await _discard(request)
        raise _too_large(stated, close=asks)
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
            parts.clear()
            if message.get("more_body"):
                await _discard(request)
            raise _too_large(f"more than {MAX_BODY_BYTES}")
    return b"".join(parts)


async def _discard(request: Request) -> None:
    left = MAX_DISCARDED_BYTES
    try:
        async with asyncio.timeout(MAX_DISCARD_S):
            while left > 0:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                if not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large(found: str, *, close: bool = False) -> Problem:
    return Problem(
        "too_large",
        f"wanted a body of at most {MAX_BODY_BYTES} bytes, found {found}; send it in parts",
        close=close,
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


def flag_parameter(request: Request, name: str) -> bool:
    """Give a yes or no of the query string, no when it is absent.

    Raises:
        Problem: ``invalid`` when it is neither ``true`` nor ``false``.
    """
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise Problem(
            "invalid",
            f"{name}: wanted true or false, found {text[:_MAX_SHOWN]!r}",
            field=name,
        )
    return text == "true"


def check_url(scope: Scope) -> None:
    """See that path and query are UTF-8 in percent-encoding, and the path one line.

    The server would put a replacement character for every other byte, and the router would drop a
    line break at the end; both would answer for another identity than the one asked for.

    Raises:
        Problem: ``malformed`` or ``invalid``; the field is ``path`` or a parameter of the query.
    """
    raw_path: bytes = scope.get("raw_path") or b""
    if not _is_text(raw_path):
        raise _not_text("path", raw_path)
    if "\n" in scope["path"]:
        found = scope["path"][:_MAX_SHOWN]
        raise Problem("invalid", f"path: wanted no line break, found {found!r}", field="path")
    query: bytes = scope["query_string"]
    if query and not _is_text(query):
        wrong = next(part for part in query.split(b"&") if not _is_text(part))
        name, equals, value = wrong.partition(b"=")
        if equals and _is_text(name):
            raise _not_text(unquote_to_bytes(name).decode()[:_MAX_SHOWN], value)
        raise _not_text("query", wrong)


def _is_text(raw: bytes) -> bool:
    if not raw.isascii():
        return False
    if b"%" in raw:
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return False
    return True


def _not_text(field: str, raw: bytes) -> Problem:
    found = raw[:_MAX_SHOWN].decode("ascii", errors="backslashreplace")
    return Problem(
        "malformed",
        f"{field}: wanted UTF-8 in percent-encoding, found {found}",
        field=field,
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
