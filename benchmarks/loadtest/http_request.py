"""The bytes of an HTTP/1.1 request."""

from __future__ import annotations

from collections.abc import Mapping


def prepare(
    method: str,
    path: str,
    body: bytes | None,
    *,
    host: str,
    headers: Mapping[str, str],
    content_type: str = "application/json",
) -> bytes:
    """Give the bytes; ``host`` with its port. ``body`` ``None``: there is none."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        if not any(name.lower() == "content-type" for name in headers):
            lines.append(f"Content-Type: {content_type}")
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")
