"""What serving computes once and keeps gives, to the bit, what computing it anew would give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.bundle.load import load_serving_model
from recsys.inference.compute import answer
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates, UserContext
from recsys.retrieval.fusion import fuse
from recsys.retrieval.source import SourceInputs
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


@pytest.fixture
def model(bundle: Path) -> TorchServingModel:
    return load_serving_model(bundle)


def users(model: TorchServingModel, size: int, *, seed: int) -> dict[str, Tensor]:
    """Users with histories of 0 to all places, the first of them empty."""
    d = model.dimensions
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(size, *shape, generator=generator)

    index = torch.zeros(size, d.history_length, dtype=torch.int32)
    for row in range(size):
        length = row * d.history_length // max(size - 1, 1)
        items = torch.randperm(model.num_items, generator=generator)[:length] + 1
        if length:
            index[row, -len(items) :] = items.int()
    used = index != 0
    return {
        "history_index": index,
        "history_count": (draw(d.history_length) * 9).ceil() * used,
        "history_age_s": draw(d.history_length) * 9e6 * used,
        "user_tokens": (draw(d.num_tokens) * 1e9).long(),
        "user_dense": draw(d.num_user_features) * 50,
        "user_category": (draw(d.num_categories, d.num_category_features) * 5).floor(),
    }


def call(model: TorchServingModel, size: int, *, seed: int) -> dict[str, Tensor]:
    return {
        **users(model, size, seed=seed),
        "exclude_index": torch.tensor([[3, 9_999, 0]] * size, dtype=torch.int32),
        "exclude_history": torch.arange(size).unsqueeze(1) % 2 == 0,
        "k": torch.full((size, 1), 10, dtype=torch.int32),
    }


@torch.inference_mode()
def scores_anew(model: TorchServingModel, user: UserContext) -> Tensor:
    """Every source by itself, from the towers, with nothing kept or shared."""
    inputs = [
        SourceInputs(
            user=user,
            user_vectors=model._towers.users(user, model._item_vectors.decoded()),
            item_vectors=model._item_vectors,
            item_activity=model._resident[0].clone(),
        )
        for _ in model._sources
    ]
    return torch.stack(
        [source.scores(given) for source, given in zip(model._sources, inputs, strict=True)], dim=1
    )


@torch.inference_mode()
def rank_anew(model: TorchServingModel, user: UserContext, found: Candidates) -> Tensor:
    """The ranker in one go: no half, price or vector from before."""
    output = model._ranker(
        user,
        model._towers.users(user, model._item_vectors.decoded()),
        model._item_vectors.decoded(),
        model._resident[0],
        found,
    )
    return output.order @ model._objective_weights


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_to_the_bit_those_of_the_parts(
    model: TorchServingModel, size: int, seed: int
) -> None:
    inputs = call(model, size, seed=seed)
    outputs = answer(model, inputs, num_candidates=40)
    scores = scores_anew(model, inputs)
    found = model.choose(
        inputs, scores, num_candidates=40,
        exclude_index=inputs["exclude_index"], exclude_history=inputs["exclude_history"],
    )  # fmt: skip
    score = rank_anew(model, inputs, found).masked_fill(found.item_index == 0, -torch.inf)
    best, order = score.topk(10, dim=1)
    assert torch.equal(outputs["score"], best)
    assert torch.equal(outputs["item_index"], found.item_index.gather(1, order))
    wanted = found.source_score.gather(1, order.unsqueeze(2).expand(-1, -1, scores.shape[1]))
    assert torch.equal(outputs["source_score"], wanted)


def test_a_prepared_context_answers_as_the_plain_one(model: TorchServingModel) -> None:
    plain = users(model, 5, seed=1)
    prepared = model.prepare(plain)
    assert model.prepare(prepared) is prepared
    assert torch.equal(model.user_vectors(prepared), model.user_vectors(plain))
    assert torch.equal(model.score_all(prepared), model.score_all(plain))
    given = torch.tensor([[1, 2, 0, 70]] * 5, dtype=torch.int32)
    found = model.score_sources(prepared, given)
    for mine, other in zip(
        model.rank(prepared, found), model.rank(plain, model.score_sources(plain, given)),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(mine, other)


@pytest.mark.parametrize("route", ["recommend", "rank"])
def test_the_user_tower_runs_once_a_call(model: TorchServingModel, route: str) -> None:
    runs: list[int] = []
    model._towers.users.register_forward_hook(lambda *_: runs.append(1))
    inputs = call(model, 3, seed=2)
    if route == "rank":
        inputs["candidate_index"] = torch.tensor([[5, 6, 7]] * 3, dtype=torch.int32)
    answer(model, inputs, num_candidates=40)
    assert len(runs) == 1


def test_what_is_kept_of_the_items_follows_their_refresh(model: TorchServingModel) -> None:
    inputs = call(model, 2, seed=3)
    before = answer(model, inputs, num_candidates=40)
    activity = torch.rand(model.num_items + 1, model.dimensions.num_item_features) * 30
    model.set_item_activity(activity, 5)
    assert torch.equal(model.score_all(inputs), scores_anew(model, inputs))
    after = answer(model, inputs, num_candidates=40)
    assert not torch.equal(before["score"], after["score"])


@pytest.mark.parametrize("quotas", [(0, 0, 0), (2, 2, 2), (3, 0, 3), (1, 2, 1), (50, 1, 50)])
def test_quotas_of_one_size_are_filled_together_as_one_by_one(quotas: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = (0.5, 1.0, 0.3)
    for _ in range(20):
        scores = torch.randn(4, 3, 31, generator=generator).round(decimals=1)  # with ties
        excluded = torch.rand(4, 31, generator=generator) < 0.2
        excluded[:, 0] = True
        allowed = scores.masked_fill(excluded.unsqueeze(1), -torch.inf)
        best = allowed.amax(dim=2, keepdim=True).clamp(min=1e-9)
        blend = torch.einsum("bsn,s->bn", (allowed / best).clamp(min=0.0), torch.tensor(weights))
        for source, quota in enumerate(quotas):
            top = allowed[:, source].topk(min(quota, 31), dim=1)
            blend.scatter_add_(1, top.indices, (top.values > 0) * 1e3)
        value, wanted = blend.masked_fill(excluded, -torch.inf).topk(20, dim=1)
        wanted = wanted.masked_fill(value == -torch.inf, 0)
        found = fuse(scores, weights=weights, quotas=quotas, excluded=excluded, num_candidates=20)
        assert torch.equal(found, wanted)
