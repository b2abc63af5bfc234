"""The real process: TLS, two ports, keys that come and go, and logs without secrets.

Redis, Kafka and Triton are away, as far as it can tell: it must guard its doors all the same.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from recsys.bundle.live_pointer import LIVE_FILE
from recsys.bundle.pointer_files import replace_pointer
from recsys.client import AccessDeniedError, Client, ClientConfig
from recsys.errors import ServerError
from recsys.security.key_file import KeyFile
from recsys.security.keys import ApiKey
from recsys.security.tls import client_context
from recsys.settings import Settings
from serving.supervisor.health import api_missing
from tests.security.certificates import Authority, Pair
from tests.servers import free_ports

SECRET = "hunter2-s3cr3t"


@dataclass(frozen=True, kw_only=True)
class Guarded:
    settings: Settings
    keys: KeyFile
    serve: ApiKey
    admin: ApiKey
    authority: Authority
    us: Pair
    """A certificate the API takes."""
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, key: str | None = None, *, admin: bool = False) -> httpx.Response:
        port = self.settings.admin_port if admin else self.settings.api_port
        context = client_context(self.authority.cafile, self.us.certfile, self.us.keyfile)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(
            f"https://127.0.0.1:{port}{path}", headers=headers, verify=context, timeout=30
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder)
    api, us = authority.issue("api.test"), authority.issue("caller.test")
    keys = KeyFile(folder / "var" / "security" / "keys.json")
    serve, admin = (keys.create((scope,), owner="test") for scope in ("serve", "admin"))
    first = free_ports(2)
    variables = {
        "RECSYS_STATE_DIR": str(folder / "var"),
        "RECSYS_AUTH": "required",
        "RECSYS_API_PORT": str(first),
        "RECSYS_ADMIN_PORT": str(first + 1),
        "RECSYS_TLS_CERTFILE": str(api.certfile),
        "RECSYS_TLS_KEYFILE": str(api.keyfile),
        "RECSYS_TLS_CLIENT_CAFILE": str(authority.cafile),
        "RECSYS_RATE_LIMIT": "1000",
        "REDIS_URL": f"redis://bob:{SECRET}@127.0.0.1:1/0",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "bob",
        "KAFKA_SASL_PASSWORD": SECRET,
        "TRITON_GRPC_URL": "127.0.0.1:1",
    }
    log = folder / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.api"], stdout=output, stderr=output,
            env=os.environ | variables,
        )  # fmt: skip
    found = Guarded(
        settings=Settings.model_validate(variables), keys=keys, serve=serve, admin=admin,
        authority=authority, us=us, log=log, process=process,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                assert found.ask("/healthz").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_key_opens_its_port_and_no_other(guarded: Guarded) -> None:
    similar = "/v1/items/item-1/similar"
    assert guarded.ask(similar).status_code == 401
    assert guarded.ask(similar, guarded.admin.text).status_code == 403
    answer = guarded.ask(similar, guarded.serve.text)
    assert answer.json()["error"]["code"] == "no_bundle"
    assert guarded.ask(similar, guarded.serve.text, admin=True).status_code == 404
    assert guarded.ask("/metrics", guarded.admin.text).status_code == 404
    metrics = guarded.ask("/metrics", guarded.admin.text, admin=True).text
    assert 'recsys_access_refused_total{reason="missing",route="similar"}' in metrics
    assert guarded.ask("/healthz", admin=True).status_code == 200


def test_caller_without_a_certificate_of_ours_is_not_spoken_to(
    guarded: Guarded, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "another authority").issue("caller.test")
    for pair in (None, stranger):
        context = client_context(
            guarded.authority.cafile, pair and pair.certfile, pair and pair.keyfile
        )
        with pytest.raises(httpx.TransportError):
            httpx.get(f"https://127.0.0.1:{guarded.settings.api_port}/healthz", verify=context)


def test_server_of_another_authority_is_not_believed(guarded: Guarded, tmp_path: Path) -> None:
    other = Authority(tmp_path, "another authority")
    config = ClientConfig(cafile=str(other.cafile), api_key=guarded.serve.text, retries=0)
    url = f"https://127.0.0.1:{guarded.settings.api_port}"
    with Client(url, config) as client, pytest.raises(ServerError, match="certificate"):
        client.similar("item-1")


@pytest.mark.parametrize(("version", "good"), [("TLSv1_2", True), ("TLSv1_1", False)])
def test_old_tls_is_refused(guarded: Guarded, version: str, good: bool) -> None:
    context = client_context(guarded.authority.cafile, guarded.us.certfile, guarded.us.keyfile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or this side would not offer 1.1 at all
    url = f"https://127.0.0.1:{guarded.settings.api_port}/healthz"
    if good:
        assert httpx.get(url, verify=context, timeout=30).status_code == 200
    else:
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=context, timeout=30)


def test_plain_http_gets_no_answer(guarded: Guarded) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{guarded.settings.api_port}/healthz")


def test_client_takes_its_key_and_certificates_from_the_environment(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = guarded.log.with_name("both.pem")
    both.write_bytes(guarded.us.certfile.read_bytes() + guarded.us.keyfile.read_bytes())
    monkeypatch.setenv("RECSYS_API_CAFILE", str(guarded.authority.cafile))
    monkeypatch.setenv("RECSYS_API_CERTFILE", str(both))
    url = f"https://127.0.0.1:{guarded.settings.api_port}"
    patience = ClientConfig(timeout_s=30, retries=0)
    with Client(url, patience) as client, pytest.raises(AccessDeniedError, match="RECSYS_API_KEY"):
        client.similar("item-1")
    monkeypatch.setenv("RECSYS_API_KEY", guarded.serve.text)
    with Client(url, patience) as client:
        assert client.ready().checks["triton"].ok is False
        with pytest.raises(ServerError, match="no bundle is live"):
            client.similar("item-1")


def test_supervisor_can_ask_whether_it_is_ready(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.supervisor.health._TIMEOUT_S", 60.0)  # on a busy machine
    url = f"https://127.0.0.1:{guarded.settings.api_port}"
    assert api_missing(url, guarded.settings) is None, "events are taken"
    pointer = guarded.settings.bundle_dir / LIVE_FILE
    pointer.parent.mkdir(parents=True, exist_ok=True)
    replace_pointer(pointer, {"bundle_id": "of-nobody"})
    try:
        until_s = time.monotonic() + 30.0
        while (missing := api_missing(url, guarded.settings)) is None:
            assert time.monotonic() < until_s
        assert missing.startswith("503: ")
    finally:
        pointer.unlink()


def test_new_and_revoked_keys_count_without_a_restart(guarded: Guarded) -> None:
    key = guarded.keys.create(("serve",), owner="test")

    def wait_for(status: int) -> None:
        start = time.monotonic()
        while guarded.ask("/v1/items/item-1/similar", key.text).status_code != status:
            assert time.monotonic() - start < 30

    wait_for(503)
    guarded.keys.revoke(key.key_id)
    wait_for(401)


def test_log_and_answers_hold_no_secret(guarded: Guarded) -> None:
    readiness = guarded.ask("/readyz", guarded.admin.text)
    assert readiness.json()["checks"]["redis"]["ok"] is False
    assert "127.0.0.1:1" in readiness.json()["checks"]["redis"]["detail"]
    assert {c["detail"] for c in guarded.ask("/readyz").json()["checks"].values()} == {""}
    log = guarded.log.read_text()
    assert "127.0.0.1" in log, log  # it did write about servers that are away
    for secret in (SECRET, guarded.serve.text, guarded.admin.text, "Bearer"):
        assert secret not in log
        assert secret not in json.dumps(readiness.json())
