"""gRPC to the model server over TLS: real handshakes, both sides checked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recsys.errors import ConfigurationError
from recsys.inference.triton import TritonServer
from recsys.inference.triton_address import parse
from serving.embedded.triton import server_missing
from tests.security.certificates import Authority, Pair


class Ready(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ServerReady(self, request, context):  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)


async def answers(folder: Path, server: Pair, wanted: Authority | None, options: str) -> bool:
    """Whether a server with that certificate, asking for ``wanted``'s, is ready for us."""
    listening = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Ready(), listening)
    credentials = grpc.ssl_server_credentials(
        [(server.keyfile.read_bytes(), server.certfile.read_bytes())],
        root_certificates=wanted.cafile.read_bytes() if wanted else None,
        require_client_auth=wanted is not None,
    )
    port = listening.add_secure_port("127.0.0.1:0", credentials)
    await listening.start()
    address = f"grpcs://127.0.0.1:{port}?{options}" if options else f"127.0.0.1:{port}"
    try:
        async with TritonServer(address) as client:
            ready = await client.is_ready(timeout_s=20.0 if options else 2.0)
        missing = await asyncio.to_thread(server_missing, address, 20.0 if options else 2.0)
        assert (missing is None) is ready
        return ready
    finally:
        await listening.stop(None)


def test_only_the_right_certificates_talk(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    triton, us = ours.issue("triton.test"), ours.issue("us.test")
    named = ours.issue("elsewhere.test", address="10.9.9.9")
    ca = f"ssl_ca_certs={ours.cafile}"
    show = f"{ca}&ssl_certfile={us.certfile}&ssl_keyfile={us.keyfile}"

    def ask(server: Pair, wanted: Authority | None, options: str) -> bool:
        return asyncio.run(answers(tmp_path, server, wanted, options))

    assert ask(triton, None, ca)
    assert ask(triton, ours, show)
    assert ask(named, None, f"{ca}&ssl_server_name=elsewhere.test")
    assert not ask(named, None, ca)
    assert not ask(triton, None, f"ssl_ca_certs={other.cafile}")
    assert not ask(triton, ours, ca)
    assert not ask(triton, other, show)
    assert not ask(triton, None, "")  # in the clear


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h:1", "wanted host:port"),
        ("grpcs://h:1?ssl_ca=x", "found ssl_ca"),
        ("grpc://h:1?ssl_ca_certs=x", "of grpc:// among http_port; found ssl_ca_certs"),
        ("grpcs://h:1?http_port=2", "found http_port"),
        ("grpc://h:1?http_port=x", "wanted a number as http_port, found 'x'"),
        ("grpcs://h:1?ssl_keyfile=x", "wanted ssl_certfile"),
    ],
)
def test_wrong_addresses_are_explained(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(url)


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_ca_certs=/none\.pem"):
        parse("grpcs://h:1?ssl_ca_certs=/none.pem").credentials()


def test_the_port_of_calls_over_http_is_said() -> None:
    address = parse("grpc://[::1]:8001?http_port=8000")
    assert (address.target, address.host, address.http_port) == ("[::1]:8001", "::1", 8000)
    assert parse("grpc://h:8001").http_port is None


def test_plain_addresses_stay_as_they_were() -> None:
    assert (parse("h:8001").target, parse("h:8001").tls) == ("h:8001", False)
    assert (parse("grpc://h:8001").target, parse("grpcs://h:8001").tls) == ("h:8001", True)
