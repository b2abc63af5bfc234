"""The certificates of the settings are those a Kafka client shows and checks."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

from recsys.endpoints import Endpoints
from recsys.events.kafka.config import client_options
from recsys.settings import Settings
from tests.security.certificates import Authority, Pair


def shown_to(server: Pair, authority: Authority, variables: dict[str, str]) -> list[str]:
    """Names of the certificates a TLS listener was shown by our client before it hung up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certfile, server.keyfile)
    context.load_verify_locations(authority.cafile)
    context.verify_mode = ssl.CERT_REQUIRED
    shown: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    raw, _ = listener.accept()
                    raw.settimeout(10)
                    with raw, context.wrap_socket(raw, server_side=True) as spoken:
                        if spoken.recv(4):  # the first bytes of Kafka's protocol
                            subject = dict(pair[0] for pair in spoken.getpeercert()["subject"])
                            shown.append(subject["commonName"])
                except OSError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        program = (
            "from recsys.endpoints import resolve\n"
            "from recsys.events.kafka import check_broker\n"
            "from recsys.settings import Settings\n"
            "check_broker(Settings(), resolve(Settings()), timeout_s=5.0)"
        )
        # kafka-python leaves the sockets of broken handshakes lying about: not in this process.
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True,
            env=os.environ | variables | {"KAFKA_BOOTSTRAP_SERVERS": address},
        )  # fmt: skip
        assert "recsys.errors.ServerError" in done.stderr  # it is no Kafka behind the handshake
        ended.set()
        thread.join()
    return shown


def test_client_certificate_is_shown_to_the_right_server_alone(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    broker, us = ours.issue("kafka.test"), ours.issue("us.test")
    variables = {
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CAFILE": str(ours.cafile),
        "KAFKA_SSL_CERTFILE": str(us.certfile),
        "KAFKA_SSL_KEYFILE": str(us.keyfile),
    }
    assert "us.test" in shown_to(broker, ours, variables)
    foreign = variables | {"KAFKA_SSL_CAFILE": str(other.cafile)}
    assert shown_to(broker, ours, foreign) == []


def test_options_are_given_only_where_tls_is_spoken() -> None:
    endpoints = Endpoints(kafka_bootstrap_servers="h:1")
    variables = {"KAFKA_SSL_CAFILE": "ca.pem", "KAFKA_SSL_CHECK_HOSTNAME": "false"}
    plain = client_options(Settings.model_validate(variables), endpoints, timeout_ms=1)
    assert not any(name.startswith("ssl") for name in plain)
    spoken = Settings.model_validate(variables | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"})
    options = client_options(spoken, endpoints, timeout_ms=1)
    assert (options["ssl_cafile"], options["ssl_check_hostname"]) == ("ca.pem", False)
