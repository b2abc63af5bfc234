"""The API over real Triton, Redis and Kafka: nothing in the request path is a double."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import msgspec
import pytest
import redis
from rich.console import Console

from benchmarks.loadtest.untrained_bundle import NUM_CANDIDATES, add_untrained_bundle, item_id
from recsys import Client, endpoints
from recsys.bundle.compress import write_compressed
from recsys.bundle.load import load_serving_model
from recsys.bundle.served import VOCABULARY_FILE
from recsys.bundle.store import BundleStore
from recsys.client import ClientConfig, NotFoundError
from recsys.clock import now_ms
from recsys.data.vocabulary import GrowingVocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.endpoints import BrokerProfile, Endpoints
from recsys.events.kafka import connect_reader, ensure_topics
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features import plan as plans
from recsys.features.progress import progress_key
from recsys.feedback.exposure import decode_exposure
from recsys.grpc_api.client import GrpcClient
from recsys.inference.compute import answer as compute
from recsys.inference.triton import model_name
from recsys.models.config import Precision
from recsys.models.serving import TorchServingModel
from recsys.settings import Settings
from recsys.wire import Filters, ReplayResponse
from serving.model_repository.item_reader import connect_items
from serving.model_repository.live_items import follow_items
from serving.model_repository.refresh import ItemRefresher
from serving.model_repository.turns import Turns
from serving.publishing import publish, retire
from tests.servers import TritonServer, free_ports

pytestmark = pytest.mark.servers


@dataclass(frozen=True, kw_only=True)
class Running:
    settings: Settings
    endpoints: Endpoints
    client: Client
    bundles: tuple[str, str]
    log: Path


def wait_for(check: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """How soon is measured (benchmarks/loadtest/probe), since this machine may be busy."""
    start = time.monotonic()
    while not check():
        assert time.monotonic() - start < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    redis_url: str,
    broker: tuple[str, BrokerProfile],
    triton: TritonServer,
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("api")
    variables = {
        "RECSYS_STATE_DIR": str(folder / "var"),
        "RECSYS_NAMESPACE": f"t{uuid.uuid4().hex[:8]}",
        "RECSYS_PARTITIONS": "2",
        "RECSYS_API_PORT": str(free_ports(1)),
        "RECSYS_GRPC_PORT": str(free_ports(1)),
    }
    settings = Settings.model_validate(variables)
    # The session's Triton looks into its own repository.
    settings.state_dir.mkdir(parents=True)
    triton.model_repository.mkdir(parents=True, exist_ok=True)
    settings.model_repository.symlink_to(triton.model_repository)
    where = Endpoints(
        kafka_bootstrap_servers=broker[0],
        broker_profile=broker[1],
        redis_url=redis_url,
        triton_grpc_url=triton.calls_url,
    )
    endpoints.write(settings, where)
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    first = add_untrained_bundle(settings.bundle_dir, plan, seed=1)
    second = add_untrained_bundle(settings.bundle_dir, plan, seed=2)
    ensure_topics(settings, where, Topics(namespace=settings.namespace).all())
    environment = os.environ | variables
    log = folder / "log"
    processes = []
    with log.open("wb") as output:
        for module in ("serving.stream_worker", "serving.api"):
            command = [sys.executable, "-m", module]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            )
    url = f"http://{settings.host}:{settings.api_port}"
    try:
        with Client(url, ClientConfig(retries=0, timeout_s=10.0)) as client:
            wait_for(lambda: _answers(url), f"the API: {log.read_text()}")
            wait_for((settings.run_dir / "stream_worker.ready").exists, "the stream worker")
            yield Running(
                settings=settings,
                endpoints=where,
                client=client,
                bundles=(first, second),
                log=log,
            )
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(timeout=20) for process in processes]
    assert codes == [0, 0], log.read_text()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=1.0).status_code == 200
    except httpx.TransportError:
        return False


def click(user_id: str, item: str) -> dict[str, object]:
    return {
        "kind": "interaction",
        "event_id": uuid.uuid4().hex,
        "event_time_ms": now_ms(),
        "user_id": user_id,
        "item_id": item,
        "type": "click",
    }


def publish_and_wait(running: Running, bundle_id: str) -> tuple[str, ...]:
    published = publish(running.settings, running.endpoints, bundle_id, console=Console(quiet=True))
    wait_for(lambda: running.client.ready().bundle == bundle_id, "the API to take the bundle up")
    return published.unloaded


def test_publish_serve_click_and_publish_again(running: Running) -> None:
    client, (first, second) = running.client, running.bundles
    assert client.ready().bundle is None
    publish_and_wait(running, first)
    assert client.ready().ready

    user = f"user-{uuid.uuid4().hex[:8]}"
    before = client.recommend(user, k=5, explain=True)
    assert (before.bundle, before.rung, before.known) == (first, "full", False)
    assert len(before.items) == 5
    assert before.item_features_age_ms is not None

    clicked = before.items[0].item_id
    assert client.send_events([click(user, clicked)]).accepted == 1

    def has_changed() -> bool:
        ids = [item.item_id for item in client.recommend(user, k=5).items]
        return clicked not in ids and ids != [item.item_id for item in before.items][1:]

    wait_for(has_changed, "the click to change the answer")
    after = client.recommend(user, k=5, explain=True)
    assert after.known
    assert after.features is not None
    assert after.features.history[0].item_id == clicked

    ranked = client.rank(user, [item_id(9), "no such item", item_id(3)], explain=True)
    assert [item.known for item in ranked.items] == [True, True, False]
    assert len(client.similar(item_id(5), k=7).items) == 7
    with pytest.raises(NotFoundError):
        client.similar("no such item")

    # A second bundle beside the first; the first stays for a rollback, and comes back by pointer.
    assert publish_and_wait(running, second) == ()
    assert client.recommend(user, k=5).bundle == second
    BundleStore(running.settings.bundle_dir).rollback()
    wait_for(lambda: client.recommend(user).bundle == first, "the rollback")
    assert client.recommend(user).rung == "full"


def test_load_of_every_kind_is_answered_and_its_stages_are_seen(
    running: Running, tmp_path: Path
) -> None:
    from benchmarks.loadtest.__main__ import main as loadtest
    from benchmarks.loadtest.result import read_result

    publish_and_wait(running, running.bundles[0])
    output = tmp_path / "result.json"
    url = f"http://{running.settings.host}:{running.settings.api_port}"
    how = ["--rate", "25", "--duration", "1", "--warmup", "0.5", "--timeout", "20"]
    mix = "recommend=5,rank=1,similar=1,events=3"
    assert loadtest(["--url", url, *how, "--mix", mix, "--output", str(output)]) == 0
    (step,) = read_result(output).steps()
    assert set(step.kinds) == {"recommend", "rank", "similar", "events"}
    assert step.answers["202"] == step.kinds["events"].sent, step.answers
    assert {"features", "recommend", "rank", "rerank"} <= set(step.stages)
    assert sum(stage.mean_ms for stage in step.stages.values()) < step.latency_ms["mean"]


def test_what_is_withdrawn_is_gone_within_two_seconds_and_comes_back(running: Running) -> None:
    client, bundle_id = running.client, running.bundles[0]
    publish_and_wait(running, bundle_id)
    user = f"user-{uuid.uuid4().hex[:8]}"
    victim = client.recommend(user, k=5).items[2]
    near = client.similar(victim.item_id, k=1).items[0].item_id

    def say(available: bool) -> None:
        event = {
            "kind": "item", "event_id": uuid.uuid4().hex, "event_time_ms": now_ms(),
            "item_id": victim.item_id, "category": victim.category, "available": available,
            "title": "again",
        }  # fmt: skip
        assert client.send_events([event]).accepted == 1

    def shown() -> dict[str, str]:
        answer = client.recommend(user, k=300)
        assert answer.rung == "full"
        return {item.item_id: item.title for item in answer.items}

    def neighbours() -> set[str]:
        # All others: what is described anew is near to others.
        return {item.item_id for item in client.similar(near, k=299).items}

    assert victim.item_id in neighbours()
    say(False)
    wait_for(lambda: victim.item_id not in shown(), "the item to be gone")
    assert len(shown()) == 299 and victim.item_id not in neighbours()
    say(True)
    wait_for(lambda: shown().get(victim.item_id) == "again", "the item to be back")
    assert victim.item_id in neighbours()


def test_what_is_created_is_recommended_ranked_and_outlives_both_processes(
    running: Running,
) -> None:
    client, bundle_id = running.client, running.bundles[0]
    publish_and_wait(running, bundle_id)
    user, maker = f"user-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex[:8]
    new, odd = f"new-{maker}", f"odd-{maker}"
    only = Filters(tags=[f"maker={maker}"])

    def say(item: str, **said: object) -> None:
        event = {
            "kind": "item", "event_id": uuid.uuid4().hex, "event_time_ms": now_ms(),
            "item_id": item, "attributes": {"maker": maker}, **said,
        }  # fmt: skip
        for _ in range(2):  # at least once: again
            assert client.send_events([event]).accepted == 1

    def shown(asked: Client = client) -> set[str]:
        answer = asked.recommend(user, k=10, filters=only)
        assert answer.rung == "full"
        return {item.item_id for item in answer.items}

    assert shown() == set()
    say(new, title="A new mug", category="c3", price=3.5)
    wait_for(lambda: shown() == {new}, "the created item")
    say(odd, category="of no bundle")
    wait_for(lambda: shown() == {new, odd}, "the item of an unknown category")
    ranked = client.rank(user, [item_id(3), new, "nobody", odd])
    by_id = {item.item_id: item for item in ranked.items}
    assert [by_id[i].known for i in (item_id(3), new, "nobody", odd)] == [True, True, False, True]
    assert by_id[new].title == "A new mug" and by_id[new].score is not None
    near = client.similar(new, k=5).items
    assert len(near) == 5
    assert new in {i.item_id for i in client.similar(near[0].item_id, k=302).items}
    # It is in the user's history like any other, and what was seen does not come back.
    assert client.send_events([click(user, new)]).accepted == 1
    wait_for(lambda: shown() == {odd}, "the click on it")
    past = client.recommend(user, k=300)
    assert past.rung == "full" and odd in {item.item_id for item in past.items}
    say(odd, available=False)
    wait_for(lambda: shown() == set(), "the withdrawal")

    # The model server comes to the same picture from the log, and so does another API process.
    calm = f"calm-{maker}"  # nobody acts on it: its moving features stay what they are
    say(calm, title="A calm mug", category="c3", price=4.0)

    def score(asked: Client) -> float:
        found = asked.rank("nobody", [calm]).items[0].score
        return float("nan") if found is None else found

    def others(asked: Client) -> set[str]:
        return {i.item_id for i in asked.recommend("nobody", k=10, filters=only).items}

    wait_for(lambda: others(client) == {new, calm}, "the last of them")
    about = pytest.approx(score(client), abs=0.02)  # the hour of day is one of the features
    forget_models(running)
    wait_for(lambda: client.recommend("nobody").rung == "full", "the model to be loaded again")
    wait_for(lambda: others(client) == {new, calm}, "its picture")  # a slow log is not waited out
    assert score(client) == about
    with another_api(running) as second:
        wait_for(lambda: second.recommend("nobody").rung == "full", "the other process")
        wait_for(lambda: others(second) == {new, calm}, "its picture")
        assert score(second) == about
    for item in (new, calm):  # the tests that follow ask for the bundle's own
        say(item, available=False)
    wait_for(lambda: others(client) == set(), "them to be withdrawn")


def test_tracers_say_how_soon_events_and_items_are_seen_and_leave_nothing_behind(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.loadtest.__main__ import main as loadtest
    from benchmarks.loadtest.probe.result import PATHS, ProbeResult
    from benchmarks.loadtest.probe.tracer import all_offered, item_id, withdrawn

    publish_and_wait(running, running.bundles[0])
    client = running.client

    def offered() -> set[str]:
        asked = all_offered()
        answer = client.recommend(asked.user_id, k=asked.k, filters=asked.filters)
        return {item.item_id for item in answer.items}

    # What a killed run has left, and what another one is still looking at.
    left, others = (item_id("other", 1, gone_by_ms=now_ms() + ms) for ms in (-1, 60_000))
    for item in (left, others):
        said = withdrawn(item) | {"available": True, "attributes": {"recsys_probe": "tracer"}}
        assert client.send_events([said]).accepted == 1
    wait_for(lambda: offered() == {left, others}, "the items to be offered")

    url = f"http://{running.settings.host}:{running.settings.api_port}"
    how = ["--url", url, "--rate", "12", "--duration", "0.4", "--timeout", "20"]
    html = tmp_path / "page.html"
    assert loadtest(["probe", *how, "--objective", "answer.max<20s", "--html", str(html)]) == 0
    result = msgspec.json.decode(capsys.readouterr().out, type=ProbeResult)
    assert result.items_cleared == 1 and not result.items_left and offered() == {others}
    num = result.paths["created"].sent
    assert num > 1
    assert {name: path.seen for name, path in result.paths.items()} == {
        name: 3 * num if name == "accepted" else num for name in PATHS
    }
    for seen in result.observations:
        assert seen.at_most_ms is not None and seen.accepted_ms is not None
        assert 0 <= seen.at_least_ms <= seen.at_most_ms
        assert seen.accepted_ms <= seen.at_most_ms
    assert "Freshness" in html.read_text()
    assert client.send_events([withdrawn(others)]).accepted == 1


def forget_models(running: Running) -> None:
    import asyncio

    from recsys.inference.triton import TritonServer as Connection

    async def unload() -> None:
        async with Connection(running.endpoints.require_triton()) as server:
            await server.unload(model_name(running.bundles[0]))

    asyncio.run(unload())


@contextlib.contextmanager
def another_api(running: Running) -> Iterator[Client]:
    port = free_ports(1)
    variables = {
        "RECSYS_STATE_DIR": str(running.settings.state_dir),
        "RECSYS_NAMESPACE": running.settings.namespace,
        "RECSYS_API_PORT": str(port),
    }
    command = [sys.executable, "-m", "serving.api"]
    with running.log.open("ab") as output:
        process = subprocess.Popen(
            command, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        url = f"http://{running.settings.host}:{port}"
        wait_for(lambda: _answers(url), "the other API process")
        with Client(url, ClientConfig(retries=0, timeout_s=10.0)) as client:
            yield client
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_two_bundles_answer_side_by_side_and_one_is_retired(running: Running) -> None:
    client, (first, second) = running.client, running.bundles
    publish_and_wait(running, first)
    beside = publish(
        running.settings, running.endpoints, second, console=Console(quiet=True), beside=True
    )
    assert (beside.live, beside.beside) == (first, (second,))
    # Published means that every API process answers with it.
    answers = [client.recommend("ann", k=5, bundle=b) for b in (None, first, second)]
    assert [answer.bundle for answer in answers] == [first, first, second]
    assert {answer.rung for answer in answers} == {"full"}
    retired = retire(running.settings, running.endpoints, second, console=Console(quiet=True))
    assert retired.live == first
    with pytest.raises(NotFoundError, match="found"):
        client.recommend("ann", bundle=second)
    assert client.recommend("ann").bundle == first


MOST_BY_INT8 = 0.05
"""Score (log-odds) that an untrained bundle may lose or gain by all of it in int8."""


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_served_scores_are_those_of_the_bundle_itself(
    running: Running, tmp_path: Path, precision: Literal["float32", "int8"]
) -> None:
    import torch

    bundle_id = running.bundles[0]
    store = BundleStore(running.settings.bundle_dir)
    if precision == "int8":
        smaller = Precision(item_vectors="int8", towers="int8", ranker="int8")
        write_compressed(store.path(bundle_id), smaller, tmp_path / "int8", now_ms=1)
        bundle_id = store.add(tmp_path / "int8")
    publish_and_wait(running, bundle_id)
    user = f"parity-{precision}"
    assert running.client.send_events([click(user, item_id(n)) for n in (3, 5, 8)]).accepted == 3
    wait_for(lambda: running.client.recommend(user, k=1).known, "the clicks")
    served = running.client.recommend(user, k=20, explain=True)
    topics = Topics(namespace=running.settings.namespace)
    reader = connect_reader(
        running.settings, running.endpoints, topics=[topics.exposures], group="test"
    )
    found = []
    try:

        def logged() -> bool:
            records = reader.poll(timeout_ms=100, max_records=1000)
            found.extend(decode_exposure(record.value) for record in records)
            return any(exposure.request_id == served.request_id for exposure in found)

        wait_for(logged, "the exposure")
    finally:
        reader.close()
    exposure = next(e for e in found if e.request_id == served.request_id)
    assert exposure.item_ids == [item.item_id for item in served.items]
    # The exposure holds all it takes to compute the answer again, in another process.
    folder = store.path(bundle_id)
    model = load_serving_model(folder, room=100)
    assert isinstance(model, TorchServingModel)
    state_dir = running.settings.state_dir
    vocabulary = GrowingVocabulary(load_vocabulary(folder / VOCABULARY_FILE))
    refresher = ItemRefresher(
        model, vocabulary, lambda: connect_items(folder, state_dir), turns=Turns(),
        interval_s=1.0, room=100,
    )  # fmt: skip
    kept, follower = follow_items(model, vocabulary, folder, state_dir, Turns(), room=100)
    follower.start()
    assert follower.wait(20)  # what the log has said of items since the bundle
    follower.stop()
    assert refresher.refresh()
    refresher.stop()
    inputs = {
        name: torch.from_numpy(record.array().copy()) for name, record in exposure.features.items()
    }
    inputs |= {
        "exclude_index": torch.zeros((1, 1), dtype=torch.int32),
        "exclude_history": torch.ones((1, 1), dtype=torch.bool),
        "k": torch.full((1, 1), 20, dtype=torch.int32),
    }
    again = compute(model, inputs, num_candidates=NUM_CANDIDATES)
    assert kept is not None
    assert [item_id(row) for row in again["item_index"][0].tolist()] == exposure.item_ids
    assert torch.allclose(again["score"][0], torch.tensor(exposure.scores), atol=1e-5)
    # And how far that is from the numbers it was made of, for the same items.
    whole = load_serving_model(store.path(running.bundles[0]), room=100)
    assert isinstance(whole, TorchServingModel)
    known = torch.arange(whole.num_items + 1).unsqueeze(0)
    whole.items.set_activity(model.items.activity_of(known)[0], model.items.activity_as_of_ms)
    ranked = whole.rank(inputs, whole.score_sources(inputs, again["item_index"]))
    difference = float((ranked.score - again["score"]).abs().max())
    assert difference <= (1e-5 if precision == "float32" else MOST_BY_INT8)
    assert (difference > 1e-5) == (precision == "int8")


def test_the_model_server_leaves_its_ranker_out_when_there_is_no_time(running: Running) -> None:
    import asyncio

    import numpy as np

    from recsys.bundle.manifest import read_manifest
    from recsys.deadline import Deadline
    from recsys.inference.triton import TritonModel
    from recsys.inference.triton import TritonServer as Connection
    from recsys.models.signature import RANK_LATE, RANKED
    from serving.bundle_trial import _request

    bundle_id = running.bundles[0]
    publish_and_wait(running, bundle_id)
    folder = BundleStore(running.settings.bundle_dir).path(bundle_id)
    inputs = _request(read_manifest(folder).dimensions, 2, k=20)

    async def ask(budget_ms: int) -> dict[str, np.ndarray]:
        async with Connection(running.endpoints.require_triton()) as server:
            asked = {**inputs, "budget_ms": np.full((2, 1), budget_ms, dtype=np.int32)}
            return await TritonModel(server, bundle_id).recommend(asked, Deadline.after_ms(5000))

    hurried, patient = asyncio.run(ask(0)), asyncio.run(ask(4000))
    assert hurried["rank_outcome"].tolist() == [[RANK_LATE]] * 2
    assert patient["rank_outcome"].tolist() == [[RANKED]] * 2
    assert (hurried["objective_score"] == 0).all()
    assert (np.diff(hurried["score"]) < 0).all()
    assert hurried["item_index"].tolist() != patient["item_index"].tolist()
    patience = ClientConfig(retries=0, deadline_ms=1500)
    with Client(f"http://{running.settings.host}:{running.settings.api_port}", patience) as client:
        assert client.recommend("somebody").rung == "full"


def test_a_past_answer_is_computed_again_and_explained(running: Running) -> None:
    publish_and_wait(running, running.bundles[0])
    served = running.client.recommend("replayed-user", k=10)
    answers: list[ReplayResponse] = []

    def is_found() -> bool:  # an exposure is on its way to Kafka for a moment
        with contextlib.suppress(NotFoundError):
            answers.append(running.client.past_answer(served.request_id, contributions=True))
        return bool(answers)

    wait_for(is_found, "the exposure", timeout_s=60.0)
    (found,) = answers
    assert found.equal, found.parts
    assert [item.item_id for item in found.items] == [i.item_id for i in served.items]
    assert [item.score for item in found.items] == [i.score for i in served.items]
    assert all(item.contributions for item in found.items)
    with GrpcClient(f"{running.settings.host}:{running.settings.grpc_port}") as twin:
        assert twin.past_answer(served.request_id, contributions=True) == found
        with pytest.raises(NotFoundError, match="no exposure of request 'no-such-request'"):
            twin.past_answer("no-such-request")


def test_model_server_that_forgot_its_models_is_reloaded(running: Running) -> None:
    import asyncio

    from recsys.inference.triton import TritonServer as Connection

    publish_and_wait(running, running.bundles[0])

    async def unload() -> None:
        async with Connection(running.endpoints.require_triton()) as server:
            await server.unload(model_name(running.bundles[0]))

    asyncio.run(unload())
    assert len(running.client.recommend("ann", k=3).items) == 3  # from whichever rung
    wait_for(lambda: running.client.recommend("ann", k=3).rung == "full", "the model to be back")


def test_features_of_another_layout_are_noticed_and_lived_through(
    running: Running, redis_url: str
) -> None:
    client = running.client
    publish_and_wait(running, running.bundles[0])
    assert client.send_events([click("layout-user", item_id(3))]).accepted == 1
    wait_for(lambda: client.user("layout-user").known, "the click")
    key = progress_key(running.settings.namespace)
    with redis.Redis.from_url(redis_url) as store:
        written = store.hget(key, "layout")
        assert written is not None
        store.hset(key, "layout", "0-1-2-3")
        try:
            wait_for(
                lambda: client.recommend("layout-user", k=3).rung == "similar", "the fallback"
            )  # by itself: nobody has asked /readyz
            answer = client.recommend("layout-user", k=3)
            assert "features of another layout" in answer.degraded
            assert len(answer.items) == 3
            ready = client.ready()
            assert ready.ready
            assert not ready.checks["features"].ok
            assert "found 0-1-2-3 in the store" in ready.checks["features"].detail
        finally:
            store.hset(key, "layout", written)
    wait_for(lambda: client.recommend("layout-user", k=3).rung == "full", "features again")
    assert client.ready().checks["features"].ok
    assert "serves without features: wanted features of layout" in running.log.read_text()


def test_user_attributes_are_shown_from_the_store(running: Running) -> None:
    client = running.client
    publish_and_wait(running, running.bundles[0])
    assert client.user("attribute-user").profile.status == "missing"
    event = {
        "kind": "user",
        "event_id": uuid.uuid4().hex,
        "event_time_ms": now_ms(),
        "user_id": "attribute-user",
        "attributes": {"country": "FR", "vip": True},
    }
    assert client.send_events([event]).accepted == 1
    wait_for(lambda: client.user("attribute-user").profile.status == "present", "the profile")
    page = client.user("attribute-user")
    assert page.known
    assert page.profile.tokens == ["country=FR", "vip=true"]
    assert page.profile.age_ms is not None
    assert page.profile.age_ms < 60_000


def test_a_mixed_batch_counts_its_good_events_once_each(running: Running) -> None:
    client = running.client
    publish_and_wait(running, running.bundles[0])
    user = f"mixed-{uuid.uuid4().hex[:8]}"
    good = [click(user, item_id(row)) for row in (3, 5, 7)]
    bad = [
        click(user, item_id(9)) | {"event_time_ms": 12},
        click(user, item_id(11)) | {"colour": "red"},
        click(user, item_id(13)) | {"value": "many"},
    ]
    taken = client.send_events([good[0], bad[0], good[1], good[0], bad[1], good[2], bad[2]])
    assert (taken.accepted, taken.refused) == (3, 4)
    assert [(refusal.index, refusal.code, refusal.field) for refusal in taken.refusals] == [
        (1, "schema", "events[1].event_time_ms"),
        (3, "duplicate", "events[3].event_id"),
        (4, "schema", "events[4].colour"),
        (6, "schema", "events[6].value"),
    ]
    # Sent again, as after a broken connection; the last one only now, so that its place in the
    # log, behind all others of the user, tells when everything has been counted.
    last = click(user, item_id(15))
    assert client.send_events([good[1], bad[0], good[0], last]).accepted == 3

    def history() -> dict[str, float]:
        return {item.item_id: item.count for item in client.user(user).features.history}

    wait_for(lambda: item_id(15) in history(), "the last click")
    assert history() == {item_id(row): 1.0 for row in (3, 5, 7, 15)}


def test_unknown_bundle_and_damaged_bundle_do_not_go_live(running: Running) -> None:
    from recsys.errors import BundleError

    publish_and_wait(running, running.bundles[0])
    with pytest.raises(BundleError, match="no bundle"):
        publish(running.settings, running.endpoints, "0" * 16, console=Console(quiet=True))
    plan = plans.load(running.settings.state_dir / plans.PLAN_FILE)
    other = msgspec.structs.replace(plan, services={})
    stranger = add_untrained_bundle(running.settings.bundle_dir, other, seed=3)
    with pytest.raises(BundleError, match="the stream worker computes plan"):
        publish(running.settings, running.endpoints, stranger, console=Console(quiet=True))
    assert running.client.ready().bundle == running.bundles[0]
