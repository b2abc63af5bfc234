"""Bodies that are too large, over real sockets: the 413 reaches a caller who is still sending."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from recsys.wire import MAX_BODY_BYTES
from serving.api.decoding import MAX_DISCARD_S, MAX_DISCARDED_BYTES
from tests.serving.api.memory_api import memory_api

TWO_MEGABYTES = 2 * MAX_BODY_BYTES


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with memory_api() as api, socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            api.app, loop="uvloop", http="httptools", lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        host, port = listening.getsockname()
        thread.start()
        try:
            yield host, port
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def head(length: str, *more: str, path: str = "/v1/events") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: api", length, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Read one answer to the end its Content-Length names."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        length = 0
        while (line := stream.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, stream.read(length)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations"])
def test_a_caller_who_sends_everything_gets_the_answer(address: tuple[str, int], path: str) -> None:
    for _ in range(40):
        with socket.create_connection(address, timeout=10) as connection:
            length = f"Content-Length: {TWO_MEGABYTES}"
            connection.sendall(head(length, "Connection: close", path=path))
            for _ in range(TWO_MEGABYTES // 50_000):
                connection.sendall(b" " * 50_000)
            status, body = answer(connection)
            assert (status, b"too_large" in body) == (413, True)
            assert connection.recv(1) == b""


def test_the_connection_serves_the_next_request(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {TWO_MEGABYTES}") + b" " * TWO_MEGABYTES)
        assert answer(connection)[0] == 413
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: api\r\n\r\n")
        assert answer(connection)[0] == 200


def test_a_body_in_chunks_of_no_stated_length(address: tuple[str, int]) -> None:
    chunk = b"c350\r\n" + b" " * 50_000 + b"\r\n"
    for _ in range(10):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(head("Transfer-Encoding: chunked", "Connection: close"))
            for _ in range(TWO_MEGABYTES // 50_000):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
            assert answer(connection)[0] == 413


def test_a_caller_who_stalls_is_answered_all_the_same(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {TWO_MEGABYTES}") + b" " * 1000)
        start = time.monotonic()
        assert answer(connection)[0] == 413
        assert time.monotonic() - start < MAX_DISCARD_S + 3.0


def test_a_body_beyond_the_bound_is_answered_before_its_end(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {100 * TWO_MEGABYTES}"))
        for _ in range(MAX_DISCARDED_BYTES // 50_000 + 10):
            connection.sendall(b" " * 50_000)
        assert answer(connection)[0] == 413


def test_who_asks_before_sending_is_refused_before_sending(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {TWO_MEGABYTES}", "Expect: 100-continue"))
        assert answer(connection)[0] == 413
        assert connection.recv(1) == b""
