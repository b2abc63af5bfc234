"""A bundle is immutable, verified, and moved by one rename; the model in it keeps its contract."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest, verify_files
from recsys.bundle.served import load_served_bundle
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError, InputError
from recsys.features.aggregation import Aggregate
from recsys.features.plan import Plan
from recsys.features.view import Feature, View
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import ServingModel
from training.debug_bundle import make_debug_bundle

DAY_MS = 86_400_000


def small_plan() -> Plan:
    """A plan without Feast: compiling the real one takes seconds."""

    def activity(name: str, keys: tuple[str, ...]) -> View:
        columns = [("interactions_7d", 7), ("interactions_30d", 30)]
        return View(
            name=name, join_keys=keys, ttl_ms=0,
            features=tuple(
                Feature(name=n, type="float32", field=i) for i, (n, _) in enumerate(columns)
            ),
            aggregates=tuple(
                Aggregate(
                    name=n, column="interaction", function="count", window_ms=d * DAY_MS,
                    slide_ms=DAY_MS,
                )
                for n, d in columns
            ),
        )  # fmt: skip

    def of(view: str) -> tuple[str, ...]:
        return f"{view}:interactions_7d", f"{view}:interactions_30d"

    of_users = (*of("user_activity"), *of("user_category_activity"), "user_history:item_ids")
    return Plan(
        project="recsys",
        views=(
            activity("user_activity", ("user_id",)),
            activity("item_activity", ("item_id",)),
            activity("user_category_activity", ("category", "user_id")),
            View(
                name="user_history", join_keys=("user_id",), ttl_ms=0,
                features=(Feature(name="item_ids", type="string_list", field=9),),
            ),
        ),
        services={"retrieval_v1": of_users, "ranking_v1": (*of_users, *of("item_activity"))},
        definitions_hash="0" * 16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


@pytest.fixture(params=["all items", "search"])
def model(bundle: Path, request: pytest.FixtureRequest) -> ServingModel:
    """One that scores all items, as for a small catalogue, and one that searches."""
    model = load_serving_model(bundle)
    if request.param == "search":
        model.search_from_items = 0
    return model


def context(model: ServingModel, *histories: list[int]) -> dict[str, torch.Tensor]:
    d = model.dimensions
    index = torch.zeros(len(histories), d.history_length, dtype=torch.int32)
    for row, items in enumerate(histories):
        if items:
            index[row, -len(items) :] = torch.tensor(items, dtype=torch.int32)
    used = (index != 0).float()
    return {
        "history_index": index,
        "history_count": used,
        "history_age_s": used * 86_400.0,
        "user_tokens": torch.zeros(len(histories), d.num_tokens, dtype=torch.int64),
        "user_dense": torch.zeros(len(histories), d.num_user_features),
        "user_category": torch.zeros(len(histories), d.num_categories, d.num_category_features),
    }


def retrieve(model: ServingModel, users, k: int, exclude: list[int], without_history: bool):
    size = len(users["history_index"])
    return model.retrieve(
        users,
        num_candidates=k,
        exclude_index=torch.tensor([exclude or [0]] * size, dtype=torch.int32),
        exclude_history=torch.full((size, 1), without_history),
    )


def test_the_same_recipe_data_and_seed_give_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    assert make_debug_bundle(tmp_path, plan=small_plan()).name == bundle.name
    assert make_debug_bundle(tmp_path, plan=small_plan(), seed=8).name != bundle.name


def test_loading_draws_no_weights_and_imports_no_compiler(bundle: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from recsys.bundle.load import load_serving_model\n"
        "before = torch.get_rng_state()\n"
        "load_serving_model(Path(sys.argv[1]))\n"
        "print(torch.equal(torch.get_rng_state(), before), 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == ["True", "False"]


def test_all_items_come_back_when_all_are_asked_for(model: ServingModel) -> None:
    found = retrieve(model, context(model, [1, 2], []), model.num_items, [], False)
    for row in found.item_index:
        assert sorted(row.tolist()) == list(range(1, model.num_items + 1))


def test_excluded_items_and_history_never_come_back_and_the_rest_is_padding(model) -> None:
    found = retrieve(model, context(model, [1, 2], []), model.num_items, [5, 9999], True)
    with_history, without = found.item_index.tolist()
    assert set(with_history) == set(range(model.num_items + 1)) - {1, 2, 5}
    assert with_history.count(0) == 3 and with_history[-3:] == [0, 0, 0]
    assert set(without) == set(range(model.num_items + 1)) - {5}
    assert (found.source_score[found.item_index == 0] == 0).all()


def test_everything_excluded_gives_only_padding_scored_minus_infinity(model) -> None:
    users = context(model, [1])
    found = retrieve(model, users, 10, list(range(1, model.num_items + 1)), False)
    assert (found.item_index == 0).all()
    assert (model.rank(users, found).score == -torch.inf).all()


def test_given_candidates_keep_their_order_and_score_as_when_retrieved(model) -> None:
    users = context(model, [3, 4, 12])
    found = retrieve(model, users, 20, [], False)
    again = model.score_sources(users, found.item_index.flip(1))
    assert torch.equal(again.item_index, found.item_index.flip(1))
    torch.testing.assert_close(again.source_score, found.source_score.flip(1))
    torch.testing.assert_close(
        model.rank(users, again).score, model.rank(users, found).score.flip(1)
    )


def test_a_row_does_not_depend_on_its_batch(model) -> None:
    together = context(model, [3, 4], [7], list(range(1, 30)))
    alone = {name: tensor[1:2] for name, tensor in together.items()}
    a = model.rank(together, retrieve(model, together, 15, [], False))
    b = model.rank(alone, retrieve(model, alone, 15, [], False))
    torch.testing.assert_close(a.score[1], b.score[0], rtol=1e-4, atol=1e-5)


def test_probabilities_are_probabilities(model) -> None:
    users = context(model, [3], [])
    ranked = model.rank(users, retrieve(model, users, 20, [], False))
    assert ranked.objective_score.shape == (2, 20, 2)
    assert ((ranked.objective_score > 0) & (ranked.objective_score < 1)).all()
    assert torch.isfinite(ranked.score).all()


def test_similar_items_are_others_and_best_first(model) -> None:
    index, cosine = model.similar(torch.tensor([4, 0]), k=5)
    assert 4 not in index[0].tolist() and (index[0] > 0).all()
    assert (cosine[0].diff() <= 0).all()
    assert (index[1] == 0).all() and (cosine[1] == -torch.inf).all()


def test_never_bought_items_have_vectors_of_their_own(model, bundle: Path) -> None:
    ids = json.loads((bundle / "vocabulary.json").read_text())["item_ids"]
    unseen = ids.index("item-79") + 1
    _, cosine = model.similar(torch.tensor([unseen]), k=3)
    assert torch.isfinite(cosine).all() and (cosine.abs() > 0).all()


def test_new_item_activity_moves_the_popular_source_at_once(model) -> None:
    popular = model.dimensions.sources.index("popular")
    users = context(model, [])
    activity = torch.zeros(model.num_items + 1, model.dimensions.num_item_features)
    activity[7] = 50.0
    model.items.set_activity(activity, 123)
    assert model.items.activity_as_of_ms == 123
    scores = model.score_sources(users, torch.tensor([[7, 8]])).source_score[0, :, popular]
    assert scores[0] > 0 and scores[1] == 0
    with pytest.raises(InputError, match="shape"):
        model.items.set_activity(activity[1:], 124)


def test_a_changed_byte_is_found_before_anything_is_served(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy)
    damaged = bytearray((copy / "ranker.safetensors").read_bytes())
    damaged[-1] ^= 1
    (copy / "ranker.safetensors").write_bytes(damaged)
    with pytest.raises(BundleError, match=r"ranker\.safetensors is damaged"):
        load_serving_model(copy)
    with pytest.raises(BundleError, match="damaged"):
        BundleStore(tmp_path).activate(bundle.name)


@pytest.mark.parametrize(
    "name",
    ["vocabulary.json", "catalogue.parquet", "popular.json", "plan.json", "items.safetensors"],
)
def test_what_an_api_process_reads_is_verified_too(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy)
    assert load_served_bundle(copy).bundle_id == bundle.name
    damaged = bytearray((copy / name).read_bytes())
    damaged[-2] ^= 1
    (copy / name).write_bytes(damaged)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        load_served_bundle(copy)


def test_a_changed_manifest_or_another_version_is_refused(bundle: Path, tmp_path: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    for change, message in (
        ({"num_candidates": 1}, "changed after training"),
        ({"format_version": 99}, "format version 99"),
        ({"surprise": 1}, "does not fit"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(document | change))
        with pytest.raises(BundleError, match=message):
            read_manifest(tmp_path)


def test_store_lists_activates_and_rolls_back(bundle: Path, tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "store")
    assert store.live() is None and store.list() == []
    first = store.add(bundle)
    assert store.add(bundle) == first
    second = store.add(make_debug_bundle(tmp_path / "other", plan=small_plan(), seed=9))
    store.activate(first)
    with pytest.raises(BundleError, match="nothing to roll back"):
        store.rollback()
    store.activate(second)
    assert store.live() == second
    assert store.rollback() == first == store.live()
    assert {m.bundle_id for m in store.list()} == {first, second}
    with pytest.raises(BundleError, match="no bundle 'nowhere'"):
        store.activate("nowhere")


def test_what_a_killed_add_left_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    left = tmp_path / ".incoming-dead"
    shutil.copytree(bundle, left)
    assert store.list() == []
    assert store.add(bundle) == bundle.name
    assert not (tmp_path / bundle.name / "stray").exists()


def test_a_damaged_copy_in_the_store_is_replaced(bundle: Path, tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    store.add(bundle)
    (tmp_path / bundle.name / "popular.json").write_text("[]")
    store.add(bundle)
    load_serving_model(store.path(bundle.name))


def test_manifest_reads_back_as_it_was_written(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.bundle_id == bundle.name
    assert manifest.dimensions == replace(manifest.dimensions)
    assert set(manifest.metrics["views"]) == {"new_items_only", "repeats_allowed"}
    popular = msgspec.json.decode((bundle / "popular.json").read_bytes())
    scores = np.array([entry["score"] for entry in popular])
    assert len(popular) == manifest.num_items and (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("room", [0, 5])
def test_what_is_written_to_a_loaded_model_stays_out_of_its_files(bundle: Path, room: int) -> None:
    model = load_serving_model(bundle, room=room)
    assert isinstance(model, TorchServingModel)
    statics = model.ranker.table.at(torch.tensor([2]))
    before = model.item_vectors().clone()
    model.items.put([1], statics)
    assert model.items.describes(1, statics, 0)
    assert not torch.equal(model.item_vectors()[1], before[1])
    verify_files(bundle, read_manifest(bundle))
    assert torch.equal(load_serving_model(bundle).item_vectors(), before)
