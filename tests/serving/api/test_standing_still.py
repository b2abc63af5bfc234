"""A model that stands still: nobody is refused for it, and a pause is not taken for an end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError
from recsys.inference.local import LocalModel
from recsys.inference.model import Arrays
from recsys.resilience.admission import Admission
from recsys.resilience.breaker import BreakerConfig
from serving.api.deadlines import TIMEOUT_HEADER
from serving.api.overload import Overload
from tests.inference.toy_bundle import BUNDLE_DIMENSIONS
from tests.inference.toy_model import ToyModel
from tests.serving.api.memory_api import MemoryApi, memory_api
from tests.serving.api.test_rungs import ask, bundle_with

BODY = {"user_id": "ann", "k": 2}
SILENCE_S = BreakerConfig().min_silence_s


class StandingModel(LocalModel):
    """Answers while it goes; else calls wait until their deadline, as those of a server do."""

    def __init__(self) -> None:
        super().__init__(ToyModel(40, dimensions=BUNDLE_DIMENSIONS))
        self.goes = asyncio.Event()
        self.goes.set()

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        try:
            await asyncio.wait_for(self.goes.wait(), deadline.remaining_s())
        except TimeoutError as error:
            raise DeadlineExceededError("recommend: no answer", stage="recommend") from error
        return await super().recommend(inputs, deadline)


@contextmanager
def standing_api() -> Iterator[tuple[MemoryApi, StandingModel]]:
    """An API whose model has answered often enough that its usual time is known, and stands."""
    model = StandingModel()
    with memory_api(bundle=bundle_with(), model=model, overload=Overload(Admission())) as api:
        for _ in range(BreakerConfig().min_calls_known):
            assert ask(api)["rung"] == "full"
        model.goes.clear()
        yield api, model


def test_more_than_there_are_places_for_are_answered_from_a_lower_rung() -> None:
    with standing_api() as (api, model):

        async def come() -> list:
            first = [asyncio.create_task(post(api)) for _ in range(100)]
            await asyncio.sleep(1.5 * SILENCE_S)
            then = []
            for _ in range(50):  # three at a time: fewer than there are ever places
                then += await asyncio.gather(*(post(api) for _ in range(3)))
            return await asyncio.gather(*first) + then

        answers = api.client._runner.run(come())
        text = api.client.get("/metrics").text
        model.goes.set()
        time.sleep(BreakerConfig().open_s)
        until_s = time.monotonic() + 2 * BreakerConfig().max_open_s
        while (back := ask(api)["rung"]) != "full" and time.monotonic() < until_s:
            time.sleep(0.05)
    assert Counter(answer.status_code for answer in answers) == {200: 250}
    reasons = Counter(answer.json()["degraded"] for answer in answers[100:])
    assert reasons["recommend: stage recommend away"] > 100, "but for a few probes"
    assert 'recsys_breaker_state{server="triton"} 0.0' not in text
    assert back == "full"


def test_a_pause_costs_lower_rungs_for_its_own_length_only() -> None:
    patient = {TIMEOUT_HEADER: "2000"}  # of a machine that has others to serve as well
    with standing_api() as (api, model):

        async def come() -> tuple[list, float, dict]:
            start_s = time.perf_counter()
            waiting = [asyncio.create_task(post(api, patient)) for _ in range(10)]
            await asyncio.wait(waiting[1:])
            released_s = time.perf_counter() - start_s
            model.goes.set()
            answers = await asyncio.gather(*waiting)
            return answers, released_s, (await post(api, patient)).json()

        answers, released_s, following = api.client._runner.run(come())
    assert SILENCE_S <= released_s < 1.9, "before the deadline"
    rungs = [answer.json()["rung"] for answer in answers]
    assert rungs[0] == "full", "the call under way goes on"
    assert set(rungs[1:]) == {"popular"}
    assert following["rung"] == "full", "one answer, and all may ask again"


async def post(api: MemoryApi, headers: dict[str, str] | None = None):
    return await api.client._http.post("/v1/recommendations", json=BODY, headers=headers)
