"""Asks the HTTP application of this process, without a socket: what the gRPC twin answers with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, urlencode

from starlette.types import ASGIApp, Message


class InProcessAnswer(NamedTuple):
    """What came back."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str | None:
        """Give the first header of a name in lower case."""
        return next((v.decode("latin-1") for n, v in self.headers if n.lower() == name), None)


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    query: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    port: int,
    client: tuple[str, int] | None = None,
) -> InProcessAnswer:
    """Send a request to ``app`` as if it had come to ``port``.

    Args:
        app: An ASGI application whose lifespan has begun.
        method: ``GET`` or ``POST``.
        path: Already decoded: an identity in it may hold any character.
        query: Parameters.
        body: JSON.
        headers: Names in lower case.
        port: Which of the API's ports the request counts for: the admin endpoints look at it.
        client: Who asks.
    """
    received = False
    status, answered, parts = 500, [], []  # type: int, list[tuple[bytes, bytes]], list[bytes]

    async def receive() -> Message:
        nonlocal received
        if received:
            return {"type": "http.disconnect"}
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, answered
        if message["type"] == "http.response.start":
            status, answered = message["status"], list(message.get("headers", []))
        else:
            parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(list(query)).encode(),
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ],
        "server": ("127.0.0.1", port),
        "client": client,
    }
    await app(scope, receive, send)
    return InProcessAnswer(status, answered, b"".join(parts))
