"""Deadlines, breakers, overload and draining over ASGI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from recsys.data.vocabulary import Vocabulary
from recsys.deadline import Deadline
from recsys.errors import StageError
from recsys.features.batch import UserFeatures
from recsys.inference.local import LocalModel
from recsys.inference.model import Arrays
from recsys.pipeline import PipelineConfig
from recsys.resilience.admission import Admission, AdmissionConfig
from serving.api.draining import Draining
from serving.api.overload import Overload
from tests.inference.toy_bundle import BUNDLE_DIMENSIONS
from tests.inference.toy_model import ToyModel
from tests.serving.api.memory_api import MemoryApi, memory_api
from tests.serving.api.test_rungs import ask, bundle_with, click, ids


class SlowModel(LocalModel):
    """Takes ``takes_s`` for each call and counts them; fails while ``is_gone``."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(ToyModel(40, dimensions=BUNDLE_DIMENSIONS))
        self.takes_s = takes_s
        self.is_gone = False
        self.num_calls = 0
        self.budgets_ms: list[int] = []

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        self.num_calls += 1
        self.budgets_ms += inputs["budget_ms"].ravel().tolist()
        await asyncio.sleep(self.takes_s)
        if self.is_gone:
            raise StageError("recommend: gone", stage="recommend")
        return await super().recommend(inputs, deadline)

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        await asyncio.sleep(self.takes_s)
        return await super().rank(inputs, deadline)


def timed(api: MemoryApi, headers: dict[str, str], **fields: object) -> tuple[dict, float]:
    start_s = time.perf_counter()
    response = api.client.post(
        "/v1/recommendations", json={"user_id": "ann", **fields}, headers=headers
    )
    assert response.status_code == 200, response.text
    return response.json(), time.perf_counter() - start_s


@pytest.mark.parametrize("header", ["X-Request-Timeout-Ms", "X-Envoy-Expected-Rq-Timeout-Ms"])
def test_the_callers_deadline_cuts_a_late_model_and_travels_to_it(header: str) -> None:
    model = SlowModel(0.3)
    with memory_api(bundle=bundle_with(), model=model) as api:
        api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
        late, took_s = timed(api, {header: "100"}, k=2)
        in_time, _ = timed(api, {header: "1500"}, k=2)
    assert (late["rung"], late["degraded"]) == ("similar", "recommend: stage recommend late")
    assert took_s < 0.25
    assert in_time["rung"] == "full"
    assert 50 < model.budgets_ms[0] <= 100 < 1000 < model.budgets_ms[1] <= 1500


def test_the_server_bounds_what_a_caller_may_ask_for() -> None:
    config = PipelineConfig(deadline_ms=50, max_deadline_ms=150)
    with memory_api(bundle=bundle_with(), model=SlowModel(0.4), config=config) as api:
        _, default_s = timed(api, {})
        _, asked_s = timed(api, {"X-Request-Timeout-Ms": "60000"})
    assert default_s < 0.14 < asked_s < 0.35


def test_a_deadline_that_is_none_is_refused_unless_a_proxy_wrote_it() -> None:
    with memory_api() as api:
        for wrong in ("0", "-1", "1.5", "soon", "1" * 30):
            response = api.client.post(
                "/v1/recommendations", json={"user_id": "ann"},
                headers={"X-Request-Timeout-Ms": wrong},
            )  # fmt: skip
            assert response.status_code == 422, wrong
            assert response.json()["error"]["field"] == "X-Request-Timeout-Ms"
        answer, _ = timed(api, {"X-Envoy-Expected-Rq-Timeout-Ms": "soon"})
    assert answer["rung"] == "full"


def test_a_dead_model_is_not_asked_for_each_request_and_found_when_it_is_back() -> None:
    model = SlowModel(0.0)
    model.is_gone = True
    with memory_api(bundle=bundle_with(), model=model) as api:
        api.client.post("/v1/events", json=click("ann", "item-7", "e1"))
        answers = [ask(api, k=2) for _ in range(20)]
        assert model.num_calls == 2
        text = api.client.get("/metrics").text
        model.is_gone = False
        time.sleep(0.3)
        back = [ask(api, k=2)["rung"] for _ in range(3)]
    assert {answer["rung"] for answer in answers} == {"similar"}
    assert answers[-1]["degraded"] == "recommend: stage recommend away"
    assert 'recsys_breaker_state{server="triton"} 2.0' in text
    assert back == ["full"] * 3


def test_a_hanging_store_costs_its_share_a_few_times_and_then_nothing() -> None:
    class Hangs:
        num_reads = 0

        async def read_users(
            self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
        ) -> UserFeatures:
            self.num_reads += 1
            await asyncio.sleep(60)
            raise AssertionError

        async def check_layout(self, namespace: str) -> None:
            return

    with memory_api(bundle=bundle_with()) as api:
        hangs = Hangs()
        reading = api.users.read_users
        api.users.read_users = hangs.read_users  # type: ignore[method-assign]
        times_s = [
            timed(api, {"X-Request-Timeout-Ms": "200"}, history_item_ids=["item-7"])[1]
            for _ in range(10)
        ]
        late = ask(api, k=1, history_item_ids=["item-7"])
        api.users.read_users = reading  # type: ignore[method-assign]
        time.sleep(0.3)
        back = [ask(api)["rung"] for _ in range(3)]
    assert hangs.num_reads == 3
    assert all(0.05 < took_s < 0.2 for took_s in times_s[:3]), "two fifths of the deadline"
    assert max(times_s[3:]) < 0.06
    assert (late["rung"], ids(late)) == ("similar", ["item-8"])
    assert late["degraded"].startswith("recommend: stage features away")
    assert back == ["full"] * 3


def overloaded(api: MemoryApi, number: int, path: str = "/v1/recommendations") -> list:
    async def at_once() -> list:
        body = {"user_id": "ann", "k": 2}
        if path == "/v1/rank":
            body = {"user_id": "ann", "item_ids": ["item-3", "item-2"]}
        calls = [api.client._http.post(path, json=body) for _ in range(number)]
        return await asyncio.gather(*calls)

    return api.client._runner.run(at_once())


@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/rank"])
def test_too_many_at_once_are_answered_from_memory_then_refused(path: str) -> None:
    config = AdmissionConfig(initial_limit=2.0, memory_burst=3.0)
    overload = Overload(Admission(config))
    with memory_api(bundle=bundle_with(), model=SlowModel(0.05), overload=overload) as api:
        answers = overloaded(api, 9, path)
        health = api.client.get("/healthz").status_code
        again = overloaded(api, 2, path)
        text = api.client.get("/metrics").text
    by_status = {status: [a for a in answers if a.status_code == status] for status in (200, 503)}
    rungs = sorted(answer.json()["rung"] for answer in by_status[200])
    assert rungs == ["full", "full", "popular", "popular", "popular"]
    memory = [a.json() for a in by_status[200] if a.json()["rung"] == "popular"]
    assert memory[0]["degraded"].endswith("stage admission overloaded")
    assert len(by_status[503]) == 4
    refusal = by_status[503][0]
    assert refusal.json()["error"]["code"] == "overloaded"
    assert refusal.headers["retry-after"] == "1"
    assert health == 200
    assert [answer.status_code for answer in again] == [200, 200], "places were given back"
    route = path.rsplit("/", 1)[1].removesuffix("ations")
    assert f'recsys_requests_total{{route="{route}",status="503"}} ' in text


def test_slow_bodies_and_refused_callers_hold_no_place() -> None:
    overload = Overload(Admission(AdmissionConfig(initial_limit=2.0)))
    with memory_api(bundle=bundle_with(), overload=overload) as api:

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"user_id": '
            await asyncio.sleep(0.3)
            yield b'"ann"}'

        async def at_once() -> tuple[list, list]:
            post = api.client._http.post
            slow = [
                asyncio.create_task(post("/v1/recommendations", content=slowly())) for _ in range(5)
            ]
            await asyncio.sleep(0.1)
            quick = [await post("/v1/recommendations", json={"user_id": "bob"}) for _ in range(30)]
            return quick, await asyncio.gather(*slow)

        quick, slow = api.client._runner.run(at_once())
        wrong = [api.client.post("/v1/recommendations", json={"k": 1}) for _ in range(5)]
    assert [answer.json()["rung"] for answer in quick] == ["full"] * 30
    assert {answer.status_code for answer in slow} == {200}
    assert {answer.status_code for answer in wrong} == {422}
    assert overload.admission._at_work == 0
    assert len(overload.admission._times_s) <= 35, "wrong requests are not timed"


def test_a_draining_process_is_not_ready_and_still_answers() -> None:
    draining = Draining(5.0)
    with memory_api(draining=draining) as api:
        assert api.client.get("/readyz").status_code == 200
        draining.is_draining = True
        ready = api.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["draining"]["ok"] is False
        assert ask(api)["rung"] == "full"
