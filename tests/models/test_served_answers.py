"""What serving computes once and keeps gives, to the bit, what computing it anew would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.loadtest.untrained_bundle import add_untrained_bundle
from recsys.bundle.load import load_serving_model
from recsys.errors import InputError
from recsys.inference.compute import answer
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates, UserContext
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.fusion import fuse
from recsys.retrieval.source import SourceInputs
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


@pytest.fixture(params=["all items", "search"])
def model(bundle: Path, request: pytest.FixtureRequest) -> TorchServingModel:
    """One that scores all items, as for a small catalogue, and one that searches."""
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    if request.param == "search":
        model.search_from_items = 0
    return model


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
    """Every source's score of every item ``[B, S, N + 1]``, with nothing kept or shared."""
    every = torch.arange(model.num_items + 1).expand(len(user["history_index"]), -1)
    inputs = [
        SourceInputs(
            user=user,
            user_vectors=model._towers.users(user, model.items.vectors.decoded()),
            item_vectors=model.items.vectors,
            item_activity=model.items.resident.activity.clone(),
        )
        for _ in model._sources
    ]
    return torch.stack(
        [source.scores(given, every) for source, given in zip(model._sources, inputs, strict=True)],
        dim=1,
    )


@torch.inference_mode()
def rank_anew(model: TorchServingModel, user: UserContext, found: Candidates) -> Tensor:
    """The ranker in one go: no half, price or vector from before."""
    output = model._ranker(
        user,
        model._towers.users(user, model.items.vectors.decoded()),
        model.items.vectors.decoded(),
        model.items.resident.activity,
        found,
    )
    return (output.order * model._objective_weights).sum(2)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_to_the_bit_those_of_the_parts(
    model: TorchServingModel, size: int, seed: int
) -> None:
    inputs = call(model, size, seed=seed)
    outputs = answer(model, inputs, num_candidates=40)
    found = model.retrieve(
        inputs, num_candidates=40,
        exclude_index=inputs["exclude_index"], exclude_history=inputs["exclude_history"],
    )  # fmt: skip
    columns = found.item_index.long().unsqueeze(1).expand(-1, len(model._sources), -1)
    of_sources = scores_anew(model, inputs).gather(2, columns).transpose(1, 2)
    torch.testing.assert_close(
        found.source_score, of_sources * (found.item_index != 0).unsqueeze(2)
    )
    score = rank_anew(model, inputs, found).masked_fill(found.item_index == 0, -torch.inf)
    best, order = score.topk(10, dim=1)
    assert torch.equal(outputs["score"], best)
    assert torch.equal(outputs["item_index"], found.item_index.gather(1, order))
    wanted = found.source_score.gather(1, order.unsqueeze(2).expand(-1, -1, len(model._sources)))
    assert torch.equal(outputs["source_score"], wanted)


@pytest.mark.parametrize("search_from_items", [0, 12_000])
def test_scores_are_the_same_to_the_bit_however_many_items_there_are(
    tmp_path: Path, search_from_items: int
) -> None:
    bundle = tmp_path / add_untrained_bundle(tmp_path, small_plan(), seed=1)
    model, larger = load_serving_model(bundle), load_serving_model(bundle, room=16)
    assert isinstance(model, TorchServingModel) and isinstance(larger, TorchServingModel)
    model.search_from_items = larger.search_from_items = search_from_items
    # Not offered: what is found stays the same.
    larger.items.add([7, 8, 9, 10, 11], larger.ranker.table.at(torch.arange(1, 6)))
    for seed in range(30):
        inputs = {name: value[8:9] for name, value in call(model, 9, seed=seed).items()}
        inputs["k"] = torch.tensor([[model.num_items]])
        wanted = answer(model, inputs, num_candidates=model.num_items)
        found = answer(larger, inputs, num_candidates=model.num_items)
        for name in ("item_index", "score", "objective_score", "source_score"):
            assert torch.equal(found[name], wanted[name]), (name, seed)


def test_a_prepared_context_answers_as_the_plain_one(model: TorchServingModel) -> None:
    plain = users(model, 5, seed=1)
    prepared = model.prepare(plain)
    assert model.prepare(prepared) is prepared
    assert torch.equal(model.user_vectors(prepared), model.user_vectors(plain))
    given = torch.tensor([[1, 2, 0, 70]] * 5, dtype=torch.int32)
    found = model.score_sources(prepared, given)
    for mine, other in zip(
        model.rank(prepared, found), model.rank(plain, model.score_sources(plain, given)),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(mine, other)


@pytest.mark.parametrize("seed", range(4))
def test_items_changed_in_place_are_to_the_bit_as_if_all_were_set(
    model: TorchServingModel, bundle: Path, seed: int
) -> None:
    other = load_serving_model(bundle)
    assert isinstance(other, TorchServingModel)
    other.search_from_items = model.search_from_items
    generator = torch.Generator().manual_seed(seed)
    activity = torch.zeros(model.num_items + 1, model.dimensions.num_item_features)
    for step, size in enumerate([model.num_items, 1, 3, 0, 17, 2, model.num_items // 2]):
        rows = torch.randperm(model.num_items, generator=generator)[:size] + 1
        # No two alike: which of equal items comes first is not said.
        activity[rows] = torch.rand(size, activity.shape[1], generator=generator) * 9
        model.items.change_activity(rows, activity[rows])
        model.items.confirm_activity(step)
        other.items.set_activity(activity, step)
        assert model.items.activity_as_of_ms == step
        mine, all_set = model.items.resident, other.items.resident
        assert torch.equal(mine.activity, all_set.activity)
        assert torch.equal(mine.half.projected, all_set.half.projected)
        assert torch.equal(mine.half.factors, all_set.half.factors)
        inputs = call(model, 3, seed=step)
        answered, wanted = (answer(m, inputs, num_candidates=40) for m in (model, other))
        assert answered.keys() == wanted.keys()
        for name in answered.keys() - {"item_age_ms"}:
            assert torch.equal(answered[name], wanted[name]), name


def test_items_outside_the_table_are_not_changed(model: TorchServingModel) -> None:
    values = torch.ones(1, model.dimensions.num_item_features)
    for row in (0, -1, model.num_items + 1):
        with pytest.raises(InputError, match="wanted rows 1 to"):
            model.items.change_activity(torch.tensor([row]), values)
    with pytest.raises(InputError, match="shape"):
        model.items.change_activity(torch.tensor([1, 2]), values)


def test_what_the_caller_keeps_of_the_items_is_not_written_to(model: TorchServingModel) -> None:
    given = torch.zeros(model.num_items + 1, model.dimensions.num_item_features)
    model.items.set_activity(given, 1)
    model.items.change_activity(torch.tensor([1]), torch.ones(1, given.shape[1]))
    assert not given.any()


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
    model.items.set_activity(activity, 5)
    every = torch.arange(model.num_items + 1).expand(2, -1)
    kept = model.score_sources(inputs, every).source_score.transpose(1, 2)
    assert torch.equal(kept[:, :, 1:], scores_anew(model, inputs)[:, :, 1:])
    after = answer(model, inputs, num_candidates=40)
    assert not torch.equal(before["score"], after["score"])


@pytest.mark.parametrize(
    "quotas", [(0, 0, 0), (2, 2, 2), (3, 0, 3), (1, 2, 1), (50, 1, 50), (0,), (3,)]
)
def test_quotas_of_one_size_are_filled_together_as_one_by_one(quotas: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = (0.5, 1.0, 0.3)[: len(quotas)]
    for _ in range(20):
        scores = torch.randn(4, len(quotas), 31, generator=generator)
        scores = scores.round(decimals=1) + 0.0  # with ties, and no -0.0
        excluded = torch.rand(4, 31, generator=generator) < 0.2
        excluded[:, 0] = True
        allowed = scores.masked_fill(excluded.unsqueeze(1), -torch.inf)
        best = allowed.amax(dim=2, keepdim=True).clamp(min=1e-9)
        blend = torch.einsum("bsn,s->bn", (allowed / best).clamp(min=0.0), torch.tensor(weights))
        for source, quota in enumerate(quotas):
            top = allowed[:, source].sort(dim=1, descending=True, stable=True)
            first = top.values[:, :quota] > 0
            blend.scatter_add_(1, top.indices[:, :quota], first * 2.8)  # 1 + the weights
        blend.masked_fill_(excluded, -torch.inf)
        value, wanted = (found[:, :20] for found in blend.sort(dim=1, descending=True, stable=True))
        wanted = wanted.masked_fill(value == -torch.inf, 0)
        found = fuse(
            scores.unbind(1), weights=weights, quotas=quotas, num_candidates=20,
            excluded=Excluded(torch.arange(31) == 0, torch.where(excluded, torch.arange(31), 0)),
        )  # fmt: skip
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("excludes", [(True, True), (True, False)])
def test_what_retrieval_knows_of_its_candidates_changes_no_score(
    model: TorchServingModel, excludes: tuple[bool, bool]
) -> None:
    user = users(model, 2, seed=3)
    found = model.retrieve(
        user, num_candidates=20, exclude_index=torch.zeros(2, 1, dtype=torch.int32),
        exclude_history=torch.tensor(excludes).unsqueeze(1),
    )  # fmt: skip
    assert (found.are_new, found.are_full) == (all(excludes), bool((found.item_index != 0).all()))
    looked_at = model.rank(user, found._replace(are_new=False, are_full=False))
    for told, seen in zip(model.rank(user, found), looked_at, strict=True):
        assert torch.equal(told, seen)


def test_a_history_of_items_beyond_the_table_is_as_padding(bundle: Path) -> None:
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    vectors = []
    for row in (model.num_items + 1, 0):
        user = users(model, 2, seed=0)
        user["history_index"][1, -1] = row
        vectors.append(model.user_vectors(user))
    assert torch.equal(*vectors)


def test_two_searches_for_the_same_users_score_the_sources_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    runs: list[int] = []
    scored = model.items.vectors.scores

    def counted(vectors: Tensor) -> Tensor:
        runs.append(1)
        return scored(vectors)

    monkeypatch.setattr(model.items.vectors, "scores", counted)
    inputs = call(model, 3, seed=4)
    prepared = model.prepare(inputs)
    for without_history in (False, True):
        hidden = torch.full((3, 1), without_history)
        asked = {"exclude_index": inputs["exclude_index"], "exclude_history": hidden}
        again = model.retrieve(prepared, num_candidates=40, **asked)
        assert len(runs) == 1
        anew = model.retrieve(users(model, 3, seed=4), num_candidates=40, **asked)
        assert torch.equal(again.item_index, anew.item_index)
        runs.pop()
    # New features of the items are not answered from what was kept.
    model.items.set_activity(
        torch.rand(model.num_items + 1, model.dimensions.num_item_features) * 30, 5
    )
    model.retrieve(prepared, num_candidates=40, **asked)
    assert len(runs) == 2


def test_both_ways_to_choose_find_the_same_where_each_source_may_give_everything(
    bundle: Path,
) -> None:
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    inputs = call(model, 9, seed=6)
    wanted = answer(model, inputs, num_candidates=model.num_items)
    model.search_from_items = 0
    found = answer(model, inputs, num_candidates=model.num_items)
    assert torch.equal(found["item_index"], wanted["item_index"])
    torch.testing.assert_close(found["score"], wanted["score"], rtol=1e-4, atol=1e-4)


def test_items_that_no_source_knows_come_last(bundle: Path) -> None:
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    model.search_from_items = 0
    keep = [i for i, source in enumerate(model._sources) if not source.knows_all]
    model._sources = tuple(model._sources[i] for i in keep)
    model._mix = replace(
        model._mix, names=tuple(source.name for source in model._sources),
        weights=(1.0,) * len(keep), quotas=(0,) * len(keep),
    )  # fmt: skip
    model._knows_all = False
    inputs = call(model, 2, seed=1)
    found = model.retrieve(
        inputs, num_candidates=model.num_items, exclude_index=inputs["exclude_index"],
        exclude_history=inputs["exclude_history"],
    )  # fmt: skip
    assert set(found.item_index[0].tolist()) == set(range(model.num_items + 1)) - {3}
    known = (found.source_score[1] > 0).any(dim=1)
    assert known.any() and not known[int((~known).nonzero()[0]) :].any()
