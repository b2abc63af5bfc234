"""Refusals from the head of a request, over real sockets: the connection goes on being usable."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recsys.resilience.admission import Admission, AdmissionConfig
from recsys.settings import Settings
from serving.api.composition import make_overload
from serving.api.early_refusal import refusing_protocol
from serving.api.overload import Overload
from tests.serving.api.memory_api import memory_api

BODY = b'{"user_id": "ann", "k": 2}'


@dataclass
class Served:
    host: str
    port: int
    admission: Admission

    def fill(self) -> None:
        """Take every place: what comes from now on is refused."""
        while self.admission.enter() != "refused":
            pass

    def free(self) -> None:
        while self.admission._at_work:
            self.admission.leave(None)

    def ask(self, sent: bytes, count: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
        with socket.create_connection((self.host, self.port), timeout=10) as connection:
            connection.sendall(sent)
            with connection.makefile("rb") as stream:
                return [answer(stream) for _ in range(count)]


def answer(stream) -> tuple[int, dict[str, str], bytes]:
    status, headers = int(stream.readline().split()[1]), {}
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers["content-length"]))


@pytest.fixture
def served() -> Iterator[Served]:
    config = AdmissionConfig(initial_limit=2.0, memory_burst=1.0)
    overload = Overload(Admission(config))
    with memory_api(overload=overload) as api, socket.create_server(("127.0.0.1", 0)) as listening:
        protocol = refusing_protocol(overload)
        server = uvicorn.Server(
            uvicorn.Config(api.app, loop="uvloop", http=protocol, lifespan="off", log_config=None)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(*listening.getsockname(), overload.admission)
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def post(*more: str, body: bytes = BODY, path: str = "/v1/recommendations") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: api", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def test_a_full_process_refuses_and_goes_on_with_the_connection(served: Served) -> None:
    served.fill()
    health = b"GET /healthz HTTP/1.1\r\nHost: api\r\n\r\n"
    # One after the other without waiting: each is answered, in order.
    refused, again, healthy, last = served.ask(post() + post() + health + post(), 4)
    assert [one[0] for one in (refused, again, healthy, last)] == [503, 503, 200, 503]
    assert refused[1]["retry-after"] == "1"
    assert refused[1]["content-type"] == "application/json"
    assert json.loads(refused[2])["error"]["code"] == "overloaded"
    served.free()
    assert served.ask(post())[0][0] == 200


def test_a_body_that_comes_in_pieces_is_not_taken_for_the_next_request(served: Served) -> None:
    served.fill()
    whole = post(body=BODY + b" " * 100_000)
    with socket.create_connection((served.host, served.port), timeout=10) as connection:
        stream = connection.makefile("rb")
        for begin in range(0, len(whole), 5_000):
            connection.sendall(whole[begin : begin + 5_000])
        assert answer(stream)[0] == 503
        connection.sendall(post())
        assert answer(stream)[0] == 503
        served.free()
        connection.sendall(post())
        assert answer(stream)[0] == 200
        stream.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("Connection: close"),
        post("Expect: 100-continue"),
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(path="/v1/recommendations?x=1"),
    ],
)
def test_what_is_not_plain_is_refused_all_the_same(served: Served, request_bytes: bytes) -> None:
    served.fill()
    assert served.ask(request_bytes)[0][0] == 503


def test_refusals_are_counted(served: Served) -> None:
    def counted() -> float:
        ((_, _, text),) = served.ask(b"GET /metrics HTTP/1.1\r\nHost: api\r\n\r\n")
        wanted = 'recsys_requests_total{route="rank",status="503"} '
        found = [line for line in text.decode().splitlines() if line.startswith(wanted)]
        return float(found[0].removeprefix(wanted)) if found else 0.0

    served.fill()
    before = counted()
    assert served.ask(post(path="/v1/rank"))[0][0] == 503
    assert counted() == before + 1


def test_a_process_that_refuses_nobody_speaks_uvicorns_own_protocol() -> None:
    assert refusing_protocol(make_overload(Settings(RECSYS_TARGET_MS=0))) is HttpToolsProtocol
    assert refusing_protocol(make_overload(Settings(RECSYS_TARGET_MS=50))) is not HttpToolsProtocol
