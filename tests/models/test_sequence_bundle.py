"""A bundle whose user tower reads sequences serves what was trained; older manifests still load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import MANIFEST_FILE, Manifest, read_manifest
from recsys.inference.compute import answer
from recsys.models.config import SequenceConfig
from recsys.models.item_table import ItemTable
from recsys.models.serving import TorchServingModel
from recsys.models.two_tower import TwoTower
from tests.bundle.test_bundle import small_plan
from tests.models.test_served_answers import call, users
from training.bundle_run import Source, make_bundle
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import debug


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = debug()
    towers = replace(
        base.model, history="sequence",
        sequence=SequenceConfig(max_length=32, num_heads=2, dropout=0.1, num_pauses=26),
    )  # fmt: skip
    source = Source(
        log=made_up_log(), plan=small_plan(), dataset="made_up", objectives=OBJECTIVES,
        views=("new_items_only",), k=10, relevant_type="purchase", test_from_ms=None,
    )  # fmt: skip
    made = make_bundle(
        source, replace(base, model=towers), tmp_path_factory.mktemp("bundles"), world=World(),
        checkpoints=NoCheckpoints(), progress=Progress(quiet=True), now_ms=DEBUG_END_MS,
    )  # fmt: skip
    return made.folder


@pytest.fixture
def model(bundle: Path) -> TorchServingModel:
    return load_serving_model(bundle)


@torch.inference_mode()
def test_served_vectors_are_those_of_the_trained_tower(
    bundle: Path, model: TorchServingModel
) -> None:
    """The tower built anew from manifest and weights, whole histories padded to H, no batch."""
    manifest = read_manifest(bundle)
    from safetensors.torch import load_file

    table = ItemTable.empty(manifest.num_items, manifest.towers.num_words)
    towers = TwoTower(manifest.towers, manifest.dimensions, table).eval()
    towers.load_state_dict(load_file(bundle / "towers.safetensors"))
    items = towers.items()
    context = users(model, 9, seed=3)
    served = model.user_vectors(context)
    for row in range(9):
        one = {name: tensor[row : row + 1] for name, tensor in context.items()}
        torch.testing.assert_close(towers.users(one, items)[0], served[row], atol=1e-5, rtol=1e-4)
    lengths = (context["history_index"] != 0).sum(1)
    assert lengths[0] == 0 and torch.isfinite(served).all()


def test_order_and_pauses_of_the_history_matter_and_it_answers(model: TorchServingModel) -> None:
    context = users(model, 2, seed=4)
    turned = dict(context)
    for name in ("history_index", "history_count"):
        turned[name] = context[name].flip(1)
    assert not torch.allclose(model.user_vectors(context)[1], model.user_vectors(turned)[1])
    slower = {**context, "history_age_s": context["history_age_s"] * 30}
    assert not torch.allclose(model.user_vectors(context)[1], model.user_vectors(slower)[1])
    outputs = answer(model, call(model, 3, seed=5), num_candidates=40)
    assert (outputs["item_index"][:2, 0] > 0).all()  # the third has had everything


def test_an_item_the_bundle_does_not_know_leaves_the_others_readable(
    model: TorchServingModel,
) -> None:
    context = users(model, 3, seed=6)
    context["history_index"][:, -1] = 0
    known = model.user_vectors(context)
    assert torch.isfinite(known).all()
    context["history_index"][2] = 0
    assert not torch.allclose(model.user_vectors(context)[2], known[2])


def test_a_manifest_from_before_the_field_keeps_its_id_and_reads_pooled(
    bundle: Path, tmp_path: Path
) -> None:
    document = json.loads((bundle / MANIFEST_FILE).read_text())
    for shape in (document["towers"], document["recipe_config"]["model"]):
        del shape["history"], shape["sequence"]
    document["bundle_id"] = Manifest.model_validate(document).content_hash()
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(document))
    found = read_manifest(tmp_path)
    assert found.towers.history == "pooled"
    assert found.bundle_id == document["bundle_id"]
