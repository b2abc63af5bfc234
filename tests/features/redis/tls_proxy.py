"""Terminates TLS before a server, as stunnel does. Not a test.

``python tests/features/redis/tls_proxy.py PORT CERTIFICATE KEY [CA]`` prints the port it listens on
and serves until it is ended; with ``CA`` clients must show a certificate of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys


async def main(port: int, certificate: str, key: str, ca: str | None = None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        inner_source, inner_target = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(source, inner_target), pump(inner_source, target))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
