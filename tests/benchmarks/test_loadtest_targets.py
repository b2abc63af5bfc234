"""Other targets than our HTTP API: the gRPC twin, and any HTTP service by a template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loadtest.grpc_target import GrpcApi
from benchmarks.loadtest.options import parse_args
from benchmarks.loadtest.paced import Pacer
from benchmarks.loadtest.queue_server import QueueServer
from benchmarks.loadtest.targets import Stages, Target, parse_address
from benchmarks.loadtest.template import TemplateTarget, read_template
from benchmarks.loadtest.traffic import ShownList, Traffic, Wanted
from recsys.errors import InputError
from recsys.pipeline import PipelineConfig
from recsys.settings import Settings
from tests.serving.api.memory_api import MemoryApi, memory_api

TEMPLATE = """
[recommend]
path = "/list?n={k}&for={user}"
headers = { X-Token = "a ${TOKEN_OF_TEST}", X-Number = "{number}" }
items = "result.entries[].sku"
request_id = "result.id"

[events]
path = "/seen"
body = '{"list": "{request_id}", "shown": {items}, "clicked": {clicked}, "at": {now_ms}}'
"""


async def send(target: Target, kinds: list[int]) -> tuple[list[str], Stages]:
    """Send these kinds of requests, each when the one before is answered; give the labels."""
    rng = np.random.default_rng(4)
    traffic = Traffic(target, k=3, click_rate=1.0, learns=True, rng=rng)
    stages: Stages = {}
    labels = []
    for number, kind in enumerate(kinds):
        traffic.begin([f"user {number}"], np.array([kind]))
        outlet = target.outlet(traffic, stages)
        paced = await Pacer(traffic, np.zeros(1), outlet, timeout_s=10.0).run()
        assert traffic.kinds.tolist() == [kind], "it was asked as itself"
        labels += paced.labels
    return labels, stages


@pytest.fixture(scope="module")
def api() -> Iterator[MemoryApi]:
    config = PipelineConfig(deadline_ms=20_000, features_ms=10_000)
    with memory_api(grpc=Settings(), config=config) as running:
        yield running


def test_every_kind_is_answered_over_grpc_and_events_arrive(api: MemoryApi) -> None:
    target = GrpcApi(parse_address(f"grpc://127.0.0.1:{api.grpc_ports[0]}"))
    labels, _ = api.client.run(send(target, [0, 1, 2, 3]))
    assert [label[:3] for label in labels] == ["200"] * 4, labels
    assert labels[0] == "200 full"
    reader = api.log.reader(topics=[api.topics.behaviour], group="loadtest")
    kinds = [json.loads(r.value)["kind"] for r in reader.poll(timeout_ms=0, max_records=100)]
    assert kinds[0] == "impression" and "interaction" in kinds


def test_refusals_and_silence_are_told_apart_over_grpc(api: MemoryApi) -> None:
    nobody = send(GrpcApi(parse_address("grpc://127.0.0.1:1")), [0])
    assert asyncio.run(nobody)[0] == ["error: UNAVAILABLE"]
    target = GrpcApi(parse_address(f"grpc://127.0.0.1:{api.grpc_ports[0]}"))
    unknown = Wanted(kind="similar", number=0, user_id="ann", k=3, items=("nobody",))
    target.put = lambda wanted: GrpcApi.put(target, unknown)  # type: ignore[method-assign]
    labels, _ = api.client.run(send(target, [0]))
    assert labels == ["grpc NOT_FOUND"]


def test_a_template_fills_paths_bodies_and_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "service.toml"
    path.write_text(TEMPLATE)
    template = read_template(path)
    address = parse_address("http://shop:9000")
    with pytest.raises(InputError, match="wanted TOKEN_OF_TEST in the environment"):
        TemplateTarget(address, template)
    monkeypatch.setenv("TOKEN_OF_TEST", "secret")
    target = TemplateTarget(address, template)
    request = target.put(Wanted(kind="recommend", number=7, user_id="ann&k=1", k=5))
    assert request.startswith(b"GET /list?n=5&for=ann%26k%3D1 HTTP/1.1\r\nHost: shop:9000\r\n")
    assert b"X-Token: a secret\r\n" in request and b"X-Number: 7\r\n" in request
    shown = ShownList(user_id="ann", request_id='r"1', items=("a", 'b"'))
    events = Wanted(kind="events", number=8, user_id="ann", k=5, shown=shown, clicks=(1,))
    head, _, body = target.put(events).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /seen ")
    sent = json.loads(body)
    assert (sent["list"], sent["shown"], sent["clicked"]) == ('r"1', ["a", 'b"'], ['b"'])
    assert sent["at"] > 1_700_000_000_000
    answer = b'{"result": {"id": 17, "entries": [{"sku": "a"}, {"name": "x"}, {"sku": 3}]}}'
    assert target.shown(answer) == ("17", ["a", "3"])
    assert target.shown(b"no JSON") == ("", ())


def test_what_a_template_lacks_or_misspells_is_said(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    for text, said in (
        ("[events]\npath='/'", "recommend among them, found events"),
        ("[recommend]\npath='/'\n[buy]\npath='/'", "found buy, recommend"),
        ("[recommend]\nbody='x'", "missing required field `path`"),
        ("[recommend]\npath='list'", "wanted a path from /, found 'list'"),
        ("[recommend]\npath='/{users}'", r"wanted one of k, now_ms, .* found \{users\}"),
        ("[recommend]\npath='/{clicked}'", r"found \{clicked\}"),
        ("[recommend]\npath='/'\nverb='x'", "unknown field `verb`"),
        ("[recommend", "Expected"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_template(path)
    path.write_text("[recommend]\npath='/'\n[events]\npath='/'")
    template = read_template(path)
    with pytest.raises(InputError, match=r"none for rank, similar"):
        template.check({"recommend": 1.0, "rank": 1.0, "similar": 1.0, "events": 0.0}, path)
    with pytest.raises(InputError, match=r"wanted recommend.items, .* for events"):
        template.check({"recommend": 1.0, "events": 1.0}, path)
    with pytest.raises(SystemExit):
        parse_args("", ["--template", str(path), "--url", "grpc://127.0.0.1:1"])


def test_a_service_says_in_its_headers_where_its_time_went(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    path.write_text("[recommend]\npath = '/{user}'\nitems = '[].sku'")

    async def run() -> tuple[list[str], Stages]:
        body = b'[{"sku": "a"}]'
        headers = 'Server-Timing: db;dur=5.5, model;desc="big, slow";dur=12\r\n'
        async with QueueServer(body=body, headers=headers) as server:
            address = parse_address(f"http://127.0.0.1:{server.port}")
            return await send(TemplateTarget(address, read_template(path)), [0, 0])

    labels, stages = asyncio.run(run())
    assert labels == ["200", "200"]
    assert stages == {"db": [5.5, 5.5], "model": [12.0, 12.0]}
