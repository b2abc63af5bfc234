"""What the API maps of a bundle gives what the model server's source gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle.load import load_serving_model
from recsys.bundle.served import load_served_bundle
from recsys.errors import BundleError
from recsys.retrieval.source import SourceInputs
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


def test_neighbours_of_a_history_are_those_of_the_source_item_to_item(bundle: Path) -> None:
    served, model = load_served_bundle(bundle), load_serving_model(bundle)
    source = next(s for s in model._sources if s.name == "item_to_item")
    rng, now_ms = np.random.default_rng(3), 1_760_000_000_000
    for length in (1, 5, 30):
        history = rng.choice(np.arange(1, model.num_items + 1), length, replace=False)
        history = history.astype(np.int32)
        age_s = rng.uniform(0, 3e7, length)
        index, score = served.neighbours.scores(
            history, (now_ms - age_s * 1e3).astype(np.int64), now_ms=now_ms
        )
        inputs = SourceInputs(
            user={
                "history_index": torch.from_numpy(history).unsqueeze(0),
                "history_age_s": torch.from_numpy(age_s.astype(np.float32)).unsqueeze(0),
            },
            user_vectors=torch.zeros(1, 64),
            item_vectors=model.items.vectors,
            item_activity=torch.zeros(1),
        )
        wanted = source.all_scores(inputs)[0].numpy()
        wanted[0] = 0.0
        assert set(index.tolist()) == set(np.flatnonzero(wanted > 0).tolist())
        assert np.allclose(score, wanted[index], atol=1e-5)
        assert (np.diff(score) <= 0).all()


def test_a_bundle_without_neighbours_is_named(tmp_path: Path, bundle: Path) -> None:
    from safetensors.torch import load_file, save_file

    from recsys.bundle.item_neighbours import map_item_neighbours

    tensors = load_file(bundle / "items.safetensors")
    few = {**tensors, "neighbour_weight": tensors["neighbour_weight"][:5].contiguous()}
    save_file(few, tmp_path / "items.safetensors")
    with pytest.raises(BundleError, match="wanted neighbours of 80 items, found shapes"):
        map_item_neighbours(tmp_path, num_items=80, half_life_days=30.0)
    del tensors["neighbour_index"]
    save_file(tensors, tmp_path / "items.safetensors")
    with pytest.raises(BundleError, match="found no such tensor"):
        map_item_neighbours(tmp_path, num_items=80, half_life_days=30.0)
