"""The gRPC twin answers what the HTTP API answers, and refuses what it refuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.api_errors import AccessDeniedError, NotFoundError, NothingPublishedError
from recsys.clock import now_ms
from recsys.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    RecsysError,
    ServerError,
)
from recsys.events.schema import ItemEvent
from recsys.grpc_api.client import AsyncGrpcClient, GrpcClient, GrpcConfig
from recsys.grpc_api.convert import to_message
from recsys.grpc_api.methods import METHODS, SERVICE
from recsys.grpc_api.statuses import CODE_KEY, STATUSES
from recsys.pipeline import PipelineConfig
from recsys.security.authenticator import Authenticator, KeyRing
from recsys.security.key_file import KeyFile
from recsys.settings import Settings
from recsys.wire import Boost, Filters
from serving.api.gate import Gate
from serving.api.grpc_server import serve_grpc
from serving.api.problems import STATUS
from tests.grpc_api.test_schema import mappings
from tests.inference.toy_bundle import toy_bundle
from tests.security.certificates import Authority
from tests.servers import free_ports
from tests.serving.api.memory_api import MemoryApi, memory_api

Calls = Callable[[AsyncGrpcClient], Coroutine[Any, Any, Any]]


@contextmanager
def api_with_grpc(**options: Any) -> Iterator[MemoryApi]:
    # Long: a busy machine must not make an answer late.
    config = PipelineConfig(deadline_ms=20_000, features_ms=10_000)
    with memory_api(grpc=Settings(), config=config, **options) as running:
        yield running


@pytest.fixture(scope="module")
def api() -> Iterator[MemoryApi]:
    with api_with_grpc() as running:
        yield running


def call(api: MemoryApi, calls: Calls, config: GrpcConfig | None = None) -> Any:
    async def run() -> Any:
        async with AsyncGrpcClient(f"127.0.0.1:{api.grpc_ports[0]}", config) as client:
            return await calls(client)

    return api.client.run(run())


def click(user_id: str, event_id: str) -> dict[str, Any]:
    return {
        "kind": "interaction", "event_id": event_id, "event_time_ms": now_ms(),
        "user_id": user_id, "item_id": "item-3", "type": "click",
    }  # fmt: skip


def same(one: dict[str, Any], other: Any) -> None:
    """See that two answers differ in nothing but the chance names and times of each."""
    import msgspec

    answer = msgspec.convert(one, type(other))
    changing = {
        name: getattr(other, name)
        for name in ("request_id", "took_ms", "item_features_age_ms", "features")
        if hasattr(other, name)
    }
    assert msgspec.structs.replace(answer, **changing) == other


def test_both_twins_give_the_same_answers(api: MemoryApi) -> None:
    assert call(api, lambda c: c.send_events([click("twin", "t-1")])).accepted == 1
    asked = {"user_id": "twin", "k": 7, "explain": True, "exclude_seen": False}
    more = {"filters": {"categories": ["books", "tea"]}, "boosts": [{"factor": 3.0,
            "item_ids": ["item-9"]}], "objective_weights": {"click": 2.0}}  # fmt: skip
    over_http = api.client.post("/v1/recommendations", json=asked | more).json()
    same(
        over_http,
        call(
            api,
            lambda c: c.recommend(
                "twin", 7, explain=True, exclude_seen=False,
                filters=Filters(categories=["books", "tea"]),
                boosts=[Boost(factor=3.0, item_ids=["item-9"])], objective_weights={"click": 2.0},
            ),
        ),
    )  # fmt: skip
    ranked = {"user_id": "twin", "item_ids": ["item-4", "nothing", "item-2"]}
    same(
        api.client.post("/v1/rank", json=ranked).json(),
        call(api, lambda c: c.rank("twin", ranked["item_ids"])),
    )
    odd = "item/1?ä{k}"
    over_http = api.client.get("/v1/items/item%2F1%3F%C3%A4%7Bk%7D/similar").json()
    refused = over_http["error"]["message"]
    with pytest.raises(NotFoundError) as error:
        call(api, lambda c: c.similar(odd))
    assert str(error.value) == refused
    same(
        api.client.get("/v1/items/item-1/similar?k=3").json(),
        call(api, lambda c: c.similar("item-1", 3)),
    )
    user = call(api, lambda c: c.user("twin"))
    same(api.client.get("/v1/users/twin").json(), user)
    assert user.features.history[0].item_id == "item-3"


def test_defaults_are_those_of_http_and_not_protobufs(api: MemoryApi) -> None:
    assert len(call(api, lambda c: c._call("Recommend", {"user_id": "ann"})).items) == 10
    with pytest.raises(InputError, match="k") as error:
        call(api, lambda c: c._call("Recommend", {"user_id": "ann", "k": 0}))
    assert error.value.field == "k"


def test_events_of_every_kind_and_every_attribute_arrive(api: MemoryApi) -> None:
    attributes = {
        "new": True,
        "pages": 320,
        "weight": 0.5,
        "by": "Ann",
        "for": ["a", "b"],
        "no": [],
    }
    item = ItemEvent(
        event_id="t-item", event_time_ms=now_ms(), item_id="item-1", attributes=attributes
    )
    bad = click("ann", "t-2") | {"event_time_ms": 12}
    taken = call(api, lambda c: c.send_events([item, bad, click("ann", "t-3")]))
    assert (taken.accepted, taken.refused) == (2, 1)
    assert taken.refusals[0].field == "events[1].event_time_ms"
    with pytest.raises(InputError, match="found colour"):
        call(api, lambda c: c.send_events([click("ann", "t-4") | {"colour": "red"}]))
    with pytest.raises(InputError, match=r"events"):
        call(api, lambda c: c.send_events([]))


def test_every_error_has_a_status_and_comes_back_as_the_same_exception(api: MemoryApi) -> None:
    assert set(STATUSES) == set(STATUS), "one status for each code of the HTTP API"
    for wrong, field in (({"user_id": ""}, "user_id"), ({"user_id": "a", "bundle": "x"}, "bundle")):
        http = api.client.post("/v1/recommendations", json=wrong).json()["error"]
        with pytest.raises(InputError) as error:
            call(api, lambda c, wrong=wrong: c._call("Recommend", wrong))
        assert (str(error.value), error.value.field) == (http["message"], field)
    with pytest.raises(InputError, match="user_id: wanted 1 to 128 characters, found none"):
        call(api, lambda c: c._call("GetUser", {}))
    with api_with_grpc(live=False) as nothing, pytest.raises(NothingPublishedError):
        call(nothing, lambda c: c.recommend("ann"))


def test_keys_open_the_same_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path / "keys.json")
    serve = file.create(("serve",), owner="test").text
    with api_with_grpc(gate=Gate(Authenticator(KeyRing(file)))) as api:
        for key, scope in ((None, ""), ("rsk_wrong", ""), (serve, "ingest")):
            with pytest.raises(AccessDeniedError) as error:
                config = GrpcConfig(api_key=key)
                call(api, lambda c: c.send_events([click("ann", "k-1")]), config)
            assert scope in str(error.value)
        assert call(api, lambda c: c.recommend("ann"), GrpcConfig(api_key=serve)).items
        with pytest.raises(AccessDeniedError, match="admin"):
            call(api, lambda c: c.past_answer("r-1"), GrpcConfig(api_key=serve))
        monkeypatch.setenv("RECSYS_API_KEY", serve)
        assert call(api, lambda c: c.recommend("ann")).items
        monkeypatch.setenv("RECSYS_API_KEY", "two words")
        with pytest.raises(ConfigurationError, match="without spaces"):
            AsyncGrpcClient()


def test_admin_methods_are_not_here_where_they_have_a_port_of_their_own(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    admin = GrpcConfig(api_key=file.create(("admin", "serve"), owner="test").text)
    gate = Gate(Authenticator(KeyRing(file)), admin_port=free_ports(1))
    with api_with_grpc(gate=gate) as api:
        for ask in (lambda c: c.past_answer("r-1"), lambda c: c.user("ann")):
            with pytest.raises(NotFoundError, match="is on the admin port"):
                call(api, ask, admin)
        assert call(api, lambda c: c.recommend("ann"), admin).items
    with api_with_grpc(gate=Gate(Authenticator(KeyRing(file)))) as api:
        assert call(api, lambda c: c.user("ann"), admin).user_id == "ann"


def test_the_blocking_client_and_several_connections(api: MemoryApi) -> None:
    def ask() -> list[str]:
        config = GrpcConfig(connections=3)
        with GrpcClient(f"127.0.0.1:{api.grpc_ports[0]}", config) as client:
            assert client.send_events([click("bob", "b-1")]).accepted == 1
            assert client.rank("bob", ["item-1"]).items[0].known
            assert client.similar("item-1").items
            assert client.user("bob").known
            return [client.recommend("bob", k=1).items[0].item_id for _ in range(6)]

    assert len(set(api.client.run(asyncio.to_thread(ask)))) == 1  # type: ignore[arg-type]


def test_a_server_that_is_away_is_tried_again_and_then_said() -> None:
    port = free_ports(1)

    async def run() -> None:
        config = GrpcConfig(retries=0, timeout_s=2.0)
        async with AsyncGrpcClient(f"127.0.0.1:{port}", config) as client:
            with pytest.raises(ServerError, match=f"127.0.0.1:{port} does not answer: UNAVAILABLE"):
                await client.user("ann")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal asked
            asked += 1
            status = 503 if asked < 3 else 200
            body = (
                b'{"item_id":"a","items":[],"bundle":"b","took_ms":1.0}'
                if status == 200
                else b'{"error":{"code":"overloaded","message":"busy"}}'
            )
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})

        asked = 0
        async with serve_grpc(app, Settings()) as there:
            config = GrpcConfig(retries=2, backoff_s=0.01)
            async with AsyncGrpcClient(f"127.0.0.1:{there}", config) as client:
                assert (await client.similar("a")).bundle == "b"
        assert asked == 3

    asyncio.run(run())
    with pytest.raises(ConfigurationError, match="found 9 and 1"):
        AsyncGrpcClient(config=GrpcConfig(retries=9))


def test_a_deadline_ends_a_call() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set()
            raise

    ended = asyncio.Event()

    async def run() -> None:
        async with serve_grpc(app, Settings()) as port:
            async with AsyncGrpcClient(f"127.0.0.1:{port}", GrpcConfig(timeout_s=0.2)) as client:
                with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
                    await client.user("ann")
            await asyncio.wait_for(ended.wait(), 5)  # nobody computes what nobody waits for

    asyncio.run(run())


def test_health_and_reflection(api: MemoryApi) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{api.grpc_ports[0]}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="found 'other'"):
                await health.Check(health_pb2.HealthCheckRequest(service="other"))
            watching = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            before = api.bundles.current
            api.bundles.current, api.bundles.trouble = None, "damaged"
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            api.bundles.current, api.bundles.trouble = before, ""
            watching.cancel()
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
            ]
            services, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
            assert SERVICE in [one.name for one in services.list_services_response.service]
            assert b"RecommendRequest" in file.file_descriptor_response.file_descriptor_proto[0]

    api.client.run(run())


def test_tls_with_certificates_of_both_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, us = authority.issue("server"), authority.issue("us")
    both = tmp_path / "us.pem"
    both.write_bytes(Path(us.certfile).read_bytes() + Path(us.keyfile).read_bytes())
    settings = Settings.model_validate(
        {
            "RECSYS_TLS_CERTFILE": str(server.certfile), "RECSYS_TLS_KEYFILE": str(server.keyfile),
            "RECSYS_TLS_CLIENT_CAFILE": str(authority.cafile),
        }
    )  # fmt: skip
    with memory_api(grpc=settings) as api:
        config = GrpcConfig(cafile=str(authority.cafile), certfile=str(both))
        assert call(api, lambda c: c.recommend("ann"), config).items
        for stranger in (
            GrpcConfig(retries=0),
            GrpcConfig(retries=0, cafile=str(authority.cafile)),
        ):
            with pytest.raises(ServerError):
                call(api, lambda c: c.recommend("ann"), stranger)


WANTS_KAFKA = {"GetPastAnswer"}
"""Here there is none: UNAVAILABLE is the documented answer, by a process of its own."""
EXAMPLES = int(os.environ.get("RECSYS_TEST_EXAMPLES", "60"))
ALLOWED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_whatever_is_sent_gets_a_documented_answer(api: MemoryApi, method: Any) -> None:
    """Random messages and random bytes: nothing is the server's fault."""
    from recsys.grpc_api.schema import MESSAGES

    name = method.request.__name__
    messages = mappings(MESSAGES[name]).map(lambda said: to_message(name, said).SerializeToString())
    events = st.binary(max_size=64)

    async def ask(data: bytes) -> tuple[Any, dict[str, Any]]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{api.grpc_ports[0]}") as channel:
            try:
                await channel.unary_unary(method.full_name)(data, timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code(), dict(error.trailing_metadata())
        return grpc.StatusCode.OK, {}

    examples, allowed = EXAMPLES, ALLOWED
    if method.name in WANTS_KAFKA:
        examples, allowed = max(2, EXAMPLES // 20), ALLOWED | {grpc.StatusCode.UNAVAILABLE}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.one_of(messages, events))
    def check(data: bytes) -> None:
        status, said = api.client.run(ask(data))
        assert status in allowed, said
        if status is not grpc.StatusCode.OK:
            assert said[CODE_KEY] in STATUSES

    check()


def test_the_twin_names_the_bundle_it_is_assigned(tmp_path: Path) -> None:
    with api_with_grpc(bundle=toy_bundle("a"), beside=toy_bundle("b")) as api:
        assert call(api, lambda c: c.recommend("ann", bundle="b")).bundle == "b"
        with pytest.raises(RecsysError, match="found 'c'"):
            call(api, lambda c: c.recommend("ann", bundle="c"))
