"""Every endpoint behind the gate: scope by scope, port by port."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from prometheus_client import REGISTRY

from recsys.endpoints import Endpoints
from recsys.errors import ConfigurationError, ServerError
from recsys.security.authenticator import Authenticator, KeyRing
from recsys.security.key_file import KeyFile
from recsys.security.rate_limit import RateConfig, RateLimiter
from recsys.security.scopes import SCOPES
from recsys.settings import Settings
from serving.api.composition import make_gate
from serving.api.endpoints import ENDPOINTS, Access, Endpoint
from serving.api.gate import Gate
from serving.api.openapi import openapi_document
from tests.serving.api.memory_api import MemoryApi, memory_api

BODY: dict[str, Any] = {
    "/v1/recommendations": {"user_id": "ann"},
    "/v1/rank": {"user_id": "ann", "item_ids": ["item-1"]},
    "/v1/events": [{"kind": "?"}],
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    made = {scope: file.create((scope,), owner="test").text for scope in SCOPES}
    return made | {"file": str(file.path)}


@pytest.fixture(scope="module")
def api(keys: dict[str, str]) -> Iterator[MemoryApi]:
    with memory_api(gate=Gate(Authenticator(KeyRing(KeyFile(Path(keys["file"])))))) as running:
        yield running


def url_of(endpoint: Endpoint) -> str:
    return re.sub(r"{\w+}", "item-1", endpoint.path)


def ask(
    api: MemoryApi, endpoint: Endpoint, key: str | None, method: str | None = None
) -> httpx.Response:
    options: dict[str, Any] = {"headers": {"authorization": f"Bearer {key}"} if key else {}}
    if endpoint.method == "POST":
        options["json"] = BODY[endpoint.path]
    return api.client.request(method or endpoint.method, url_of(endpoint), **options)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.handler.__name__)
def test_endpoint_answers_its_own_scope_alone(
    api: MemoryApi, keys: dict[str, str], endpoint: Endpoint
) -> None:
    assert endpoint.access in (*SCOPES, "public")
    for scope in SCOPES:
        status = ask(api, endpoint, keys[scope]).status_code
        if endpoint.access in ("public", scope):
            assert status not in (401, 403)
        else:
            assert status == 403
    stranger = ask(api, endpoint, None)
    if endpoint.access == "public":
        assert stranger.status_code != 401
    else:
        assert stranger.status_code == 401
        assert stranger.json()["error"]["code"] == "unauthenticated"
        assert stranger.headers["www-authenticate"] == 'Bearer realm="recsys"'


def test_what_is_admin_is_decided_here_and_nowhere_else() -> None:
    admin = {endpoint.path for endpoint in ENDPOINTS if endpoint.access == "admin"}
    public = {endpoint.path for endpoint in ENDPOINTS if endpoint.access == "public"}
    assert admin == {"/v1/users/{user_id}", "/v1/requests/{request_id}", "/metrics"}
    assert public == {"/healthz", "/readyz"}


def test_endpoint_without_a_scope_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="access"):
        Endpoint(  # type: ignore[call-arg]
            method="GET", path="/x", handler=ENDPOINTS[0].handler, tag="", summary="",
            description="", answer=str,
        )  # fmt: skip
    assert {"public", *SCOPES} == {*get_args(get_args(Access)[0]), *get_args(get_args(Access)[1])}


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.method == "GET"])
def test_head_is_no_way_past_the_gate(api: MemoryApi, endpoint: Endpoint) -> None:
    status = ask(api, endpoint, None, "HEAD").status_code
    assert status in ((200, 503) if endpoint.access == "public" else (401,))


@pytest.mark.parametrize(
    "path", ["/v1/users//ann", "/v1/users/ann/", "/v1/users/..%2Fann", "//metrics", "/metrics/"]
)
def test_odd_paths_give_nothing_away(api: MemoryApi, path: str) -> None:
    assert api.client.get(path).status_code in (307, 401, 404)


def test_refusals_are_counted_by_reason(api: MemoryApi, keys: dict[str, str]) -> None:
    def count(reason: str) -> float:
        labels = {"route": "recommend", "reason": reason}
        return REGISTRY.get_sample_value("recsys_access_refused_total", labels) or 0.0

    before = {reason: count(reason) for reason in ("missing", "unknown", "scope")}
    ask(api, ENDPOINTS[0], None)
    ask(api, ENDPOINTS[0], keys["serve"][:-1] + "-")
    ask(api, ENDPOINTS[0], keys["ingest"])
    assert [count(reason) - before[reason] for reason in before] == [1, 1, 1]


def test_readiness_shows_details_to_admins_alone(api: MemoryApi, keys: dict[str, str]) -> None:
    def details(key: str | None) -> set[str]:
        headers = {"x-api-key": key} if key else {}
        checks = api.client.get("/readyz", headers=headers).json()["checks"]
        assert checks["bundle"]["ok"] is True
        return {check["detail"] for check in checks.values()}

    assert details(None) == details(keys["serve"]) == {""}
    assert "" not in details(keys["admin"])


def test_stranger_with_a_long_body_is_hung_up_on(api: MemoryApi) -> None:
    long = api.client.post("/v1/events", content=b"[" * 1_000_001)
    assert (long.status_code, long.headers["connection"]) == (401, "close")
    assert "connection" not in api.client.post("/v1/events", content=b"[]").headers
    asks = api.client.post("/v1/events", content=b"[]", headers={"expect": "100-continue"})
    assert (asks.status_code, asks.headers["connection"]) == (401, "close")


def test_document_names_the_scope_of_each_operation() -> None:
    document = openapi_document()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        wanted = [] if endpoint.access == "public" else [
            {"bearer": [endpoint.access]}, {"key": [endpoint.access]},
        ]  # fmt: skip
        assert operation["security"] == wanted
        assert ("401" in operation["responses"]) is (endpoint.access != "public")


def test_admin_endpoints_are_on_the_admin_port_and_only_there(
    keys: dict[str, str],
) -> None:
    gate = Gate(Authenticator(KeyRing(KeyFile(Path(keys["file"])))), admin_port=9)
    with memory_api(gate=gate) as api:

        async def status(port: int, endpoint: Endpoint) -> int:
            found: list[int] = []
            raw = url_of(endpoint).encode()
            key = keys.get(str(endpoint.access), "")
            scope = {
                "type": "http", "method": endpoint.method, "path": raw.decode(), "raw_path": raw,
                "query_string": b"", "headers": [(b"host", b"api:9"), (b"x-api-key", key.encode())],
                "server": ("127.0.0.1", port), "scheme": "http", "http_version": "1.1",
                "root_path": "",
            }  # fmt: skip

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"{}", "more_body": False}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    found.append(message["status"])

            await api.app(scope, receive, send)
            return found[0]

        for endpoint in ENDPOINTS:
            on_admin, on_own = (asyncio.run(status(port, endpoint)) for port in (9, 80))
            assert (on_admin == 404) is (endpoint.access in ("serve", "ingest"))
            assert (on_own == 404) is (endpoint.access == "admin")


class RedisAway:
    async def call(self, *_: Any, **__: Any) -> list[Any]:
        raise ServerError("Redis does not answer")


def test_one_request_too_many_is_told_when_to_come_back(keys: dict[str, str]) -> None:
    door = Authenticator(KeyRing(KeyFile(Path(keys["file"]))))
    limiter = RateLimiter(RedisAway(), "t", RateConfig(rate_per_s=0.5, burst=2))
    with memory_api(gate=Gate(door, limiter=limiter)) as api:
        recommend = ENDPOINTS[0]
        first, second, third = (ask(api, recommend, keys["serve"]) for _ in range(3))
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.headers["ratelimit-policy"] == '"key";q=2;w=4'
        assert third.status_code == 429
        assert third.json()["error"]["code"] == "rate_limited"
        assert 1 <= int(third.headers["retry-after"]) <= 2
        assert third.headers["ratelimit"].startswith('"key";r=0')
        assert ask(api, recommend, keys["ingest"]).status_code == 403  # costs nobody anything
        for _ in range(5):  # public endpoints are not counted
            assert api.client.get("/healthz", headers={"x-api-key": keys["serve"]}).is_success
    closed = RateConfig(rate_per_s=1, without_redis="closed")
    with memory_api(gate=Gate(door, limiter=RateLimiter(RedisAway(), "t", closed))) as api:
        refused = ask(api, recommend, keys["serve"])
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")


@pytest.mark.parametrize("lacking", ["RECSYS_JWT_ISSUER", "RECSYS_JWT_AUDIENCE"])
def test_tokens_for_anyone_of_anyone_are_not_taken(tmp_path: Path, lacking: str) -> None:
    variables = {
        "RECSYS_STATE_DIR": tmp_path, "RECSYS_AUTH": "required", "RECSYS_JWT_JWKS": "/none.json",
        "RECSYS_JWT_ISSUER": "https://login.example", "RECSYS_JWT_AUDIENCE": "recsys",
    }  # fmt: skip
    settings = Settings.model_validate({k: v for k, v in variables.items() if k != lacking})
    with pytest.raises(ConfigurationError, match="RECSYS_JWT_ISSUER and RECSYS_JWT_AUDIENCE too"):
        make_gate(settings, Endpoints(redis_url="redis://127.0.0.1:1"))
    with pytest.raises(ConfigurationError, match=r"signing keys at /none\.json"):
        make_gate(Settings.model_validate(variables), Endpoints(redis_url="redis://127.0.0.1:1"))
