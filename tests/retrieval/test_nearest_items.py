"""Items near an item: by the index where there is one, exactly where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.bundle.load import load_serving_model
from recsys.compression.item_vectors import Float32Vectors
from recsys.models.serving import TorchServingModel
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import build_index
from recsys.retrieval.nearest_items import NearestItems
from tests.bundle.test_bundle import small_plan
from tests.retrieval.test_vector_index import CONFIG, NUM_ITEMS, USERS, VECTORS
from training.debug_bundle import make_debug_bundle

K = 20
ITEMS = Float32Vectors(VECTORS)
ASKED = torch.arange(1, NUM_ITEMS + 1, 29)


def near(nearest: NearestItems, rows: Tensor, unavailable: Tensor) -> tuple[Tensor, Tensor]:
    excluded = Excluded(unavailable, rows.unsqueeze(1))
    return nearest.search(ITEMS, VECTORS[rows], K, excluded)


@pytest.mark.parametrize("together", [1, 8])
def test_the_index_finds_what_is_near_an_item(together: int) -> None:
    by_index, exactly = NearestItems(build_index(VECTORS, USERS, CONFIG).index), NearestItems()
    unavailable = torch.arange(NUM_ITEMS + 1) % 7 == 0
    shared = 0
    for rows in ASKED.split(together):
        value, found = near(by_index, rows, unavailable)
        wanted, truth = near(exactly, rows, unavailable)
        assert not unavailable[found].any() and not (found == rows.unsqueeze(1)).any()
        assert (value.diff(dim=1) <= 0).all()
        shared += sum(len({*a} & {*b}) for a, b in zip(found.tolist(), truth.tolist(), strict=True))
        assert ((value - wanted) < 1e-6).all(), "nothing is nearer than the nearest"
    assert shared > 0.95 * K * len(ASKED)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], list[TorchServingModel]]:
    folder = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.retrieval.index_build.MIN_ITEMS", 50)
        made = [
            make_debug_bundle(folder / search, plan=small_plan(), search=search)
            for search in ("exact", "approximate")
        ]

    def load() -> list[TorchServingModel]:
        loaded = [load_serving_model(bundle) for bundle in made]
        assert all(isinstance(model, TorchServingModel) for model in loaded)
        return loaded  # type: ignore[return-value]

    return load


def test_a_model_with_an_index_answers_by_it(
    models: Callable[[], list[TorchServingModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    exactly, by_index = models()
    wanted, asked = exactly.item_vectors(), torch.tensor([3, 9, 40])
    truth, cosine = exactly.similar(asked, k=5)

    def refuse(self: Float32Vectors, users: Tensor) -> Tensor:
        raise AssertionError("all items were gone through")

    monkeypatch.setattr(Float32Vectors, "scores", refuse)
    found, near = by_index.similar(asked, k=5)
    alone = [by_index.similar(one, k=5) for one in asked.split(1)]
    assert torch.equal(torch.cat([rows for rows, _ in alone]), found)
    assert torch.equal(torch.cat([value for _, value in alone]), near)
    shared = [len({*a} & {*b}) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert sum(shared) >= 12, (found, truth)
    same = found == truth
    torch.testing.assert_close(near[same], cosine[same])
    torch.testing.assert_close(
        near, (wanted[asked].unsqueeze(1) * wanted[found.long()]).sum(2), atol=1e-5, rtol=0
    )


def test_no_item_has_no_neighbours_and_what_is_withdrawn_is_none(
    models: Callable[[], list[TorchServingModel]],
) -> None:
    for model in models():
        outside = model.num_items + 5
        rows, value = model.similar(torch.tensor([0, outside, 7]), k=4)
        assert (rows[:2] == 0).all() and (value[:2] == -torch.inf).all()
        assert 7 not in rows[2].tolist() and (rows[2] > 0).all()
        alone, nothing = model.similar(torch.tensor([0]), k=4)
        assert (alone == 0).all() and (nothing == -torch.inf).all()
        nearest = rows[2, :1].long()
        model.items.set_available(torch.arange(model.num_items + 1) != nearest)
        left, theirs = model.similar(torch.tensor([7]), k=4)
        assert int(nearest) not in left[0].tolist()
        assert theirs[0, 0] >= value[2, 1] - 1e-6, "the second is the first, or one nearer"
        everything, cosine = model.similar(torch.tensor([7]), k=model.num_items)
        assert everything.shape == (1, model.num_items)
        assert int((everything > 0).sum()) == model.num_items - 2
        assert (cosine[everything == 0] == -torch.inf).all()
