"""What every ``Model`` must do, run on this process's and on a real Triton's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest

from benchmarks.loadtest.untrained_bundle import add_untrained_bundle
from recsys import endpoints
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.deadline import Deadline
from recsys.endpoints import Endpoints
from recsys.errors import DeadlineExceededError, StageError
from recsys.features import current_plan
from recsys.inference.local import LocalModel
from recsys.inference.model import NUMPY_DTYPES, Arrays, Model
from recsys.inference.triton import TritonModel, TritonServer, model_name
from recsys.models.signature import Dimensions, user_context
from serving.embedded.triton import calls_url, triton_launch
from serving.publishing import render_bundle
from tests import servers

T = TypeVar("T")
NUM_ITEMS = 60
Ask = Callable[[Callable[[Model], Awaitable[T]]], T]


class Case:
    """A model of one kind, and the sizes of its bundle."""

    def __init__(self, dimensions: Dimensions, ask: Ask) -> None:
        self.dimensions = dimensions
        self.ask = ask

    def recommend(self, **inputs: np.ndarray) -> Arrays:
        wanted = self.context(len(inputs["k"])) | inputs
        return self.ask(lambda model: model.recommend(wanted, Deadline.after_ms(30_000)))

    def context(self, num_users: int) -> dict[str, np.ndarray]:
        arrays = {
            spec.name: np.zeros((num_users, *spec.shape), dtype=NUMPY_DTYPES[spec.dtype])
            for spec in user_context(self.dimensions)
        }
        arrays["history_index"][:, -2:] = [3, 7]
        arrays["history_count"][:, -2:] = 1
        arrays["history_age_s"][:, -2:] = 60
        return arrays


def controls(*, k: int, exclude: list[int], exclude_history: bool) -> dict[str, np.ndarray]:
    return {
        "exclude_index": np.array([exclude or [0]], dtype=np.int32),
        "exclude_history": np.array([[exclude_history]]),
        "k": np.array([[k]], dtype=np.int32),
    }


@pytest.fixture(scope="module", params=["local", pytest.param("triton", marks=pytest.mark.servers)])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    settings = servers.session_settings(
        "contract",
        RECSYS_STATE_DIR=tmp_path_factory.mktemp("contract") / "var",
        RECSYS_NAMESPACE=f"t{uuid.uuid4().hex[:8]}",
    )
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    bundle_id = add_untrained_bundle(settings.bundle_dir, plan, num_items=NUM_ITEMS, seed=5)
    store = BundleStore(settings.bundle_dir)
    manifest = read_manifest(store.path(bundle_id))
    if request.param == "local":
        served = load_serving_model(store.path(bundle_id))
        local = LocalModel(served, num_candidates=manifest.num_candidates)
        yield Case(manifest.dimensions, lambda call: asyncio.run(_await(call(local))))
        return
    redis_url: str = request.getfixturevalue("redis_url")
    address = calls_url(settings)
    settings.model_repository.mkdir(parents=True, exist_ok=True)
    endpoints.write(settings, Endpoints(redis_url=redis_url, triton_grpc_url=address))
    name = model_name(bundle_id)
    render_bundle(settings, store, manifest, name)

    async def load() -> None:
        async with TritonServer(address) as server:
            await server.load(name)

    async def remote(call: Callable[[Model], Awaitable[T]]) -> T:
        async with TritonServer(address) as server:
            return await call(TritonModel(server, bundle_id))

    # A Triton of its own, started in the repository of this state folder.
    with servers.own_server(triton_launch(settings, lambda _line: None)):
        asyncio.run(load())
        yield Case(manifest.dimensions, lambda call: asyncio.run(remote(call)))


async def _await(answer: Awaitable[T]) -> T:
    return await answer


def test_a_loaded_model_is_ready(case: Case) -> None:
    assert case.ask(lambda model: model.is_ready())


def test_k_come_back_best_first_when_k_exist(case: Case) -> None:
    answer = case.recommend(**controls(k=20, exclude=[], exclude_history=False))
    rows = answer["item_index"][0].tolist()
    assert len(set(rows)) == 20
    assert min(rows) >= 1
    assert max(rows) <= NUM_ITEMS
    assert np.all(np.diff(answer["score"][0]) <= 0)
    assert answer["objective_score"].shape == (1, 20, len(case.dimensions.objectives))
    assert answer["source_score"].shape == (1, 20, len(case.dimensions.sources))


def test_what_is_excluded_stays_out_and_the_rest_is_padded(case: Case) -> None:
    banned = list(range(10, NUM_ITEMS + 1))
    answer = case.recommend(**controls(k=20, exclude=banned, exclude_history=True))
    rows = answer["item_index"][0]
    assert set(rows.tolist()) == {0, 1, 2, 4, 5, 6, 8, 9}  # 3 and 7 are the history
    assert np.all(np.isneginf(answer["score"][0][rows == 0]))


def test_rank_keeps_the_order_it_was_given(case: Case) -> None:
    inputs = case.context(1) | {"candidate_index": np.array([[5, 0, 9, 5]], dtype=np.int32)}
    answer = case.ask(lambda model: model.rank(inputs, Deadline.after_ms(30_000)))
    scores = answer["score"][0]
    assert np.isneginf(scores[1])
    assert scores[0] == scores[3]
    assert np.isfinite(scores[[0, 2]]).all()


def test_similar_items_are_others(case: Case) -> None:
    inputs = {
        "item_index": np.array([[4]], dtype=np.int32),
        "k": np.array([[5]], dtype=np.int32),
    }
    answer = case.ask(lambda model: model.similar(inputs, Deadline.after_ms(30_000)))
    rows = answer["similar_index"][0].tolist()
    assert len(set(rows)) == 5
    assert 4 not in rows


def test_a_passed_deadline_is_said(case: Case) -> None:
    inputs = case.context(1) | controls(k=5, exclude=[], exclude_history=False)
    with pytest.raises(DeadlineExceededError):
        case.ask(lambda model: model.recommend(inputs, Deadline.after_ms(0)))


def test_inputs_that_fit_no_call_are_a_stage_error(case: Case) -> None:
    with pytest.raises(StageError):
        case.recommend(**controls(k=-1, exclude=[], exclude_history=False))
