"""``python -m benchmarks.limits.echo_server --kind uvicorn|protocol``: an answer, and no work.

``uvicorn`` is the smallest ASGI application on uvicorn with uvloop and httptools, without FastAPI;
``protocol`` an asyncio protocol on uvloop that writes fixed bytes for whatever comes. Prints its
port. It ends when its standard input does, so it never outlives who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
from typing import Any, cast

import uvicorn
import uvloop

_BODY = b'{"items":[]}'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)  # fmt: skip


async def _application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": _BODY})


class _Fixed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)


async def _serve_protocol(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Fixed, sock=listener)
    await server.serve_forever()


def main() -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits.echo_server")
    parser.add_argument("--kind", choices=["uvicorn", "protocol"], required=True)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if options.kind == "protocol":
        uvloop.run(_serve_protocol(listener))
    else:
        config = uvicorn.Config(
            cast(Any, _application), loop="uvloop", http="httptools", lifespan="off",
            access_log=False, log_level="warning",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
