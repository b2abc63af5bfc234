"""Rows that came or changed beside an approximate index, and folding them into it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.bundle.index_users import GATHERED, SCATTERED
from recsys.bundle.item_describer import ItemDescriber
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.model_items import ModelItems
from recsys.bundle.served import load_served_bundle
from recsys.compression.item_vectors import Float32Vectors
from recsys.data.vocabulary import GrowingVocabulary
from recsys.models.serving import TorchServingModel
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import IndexConfig, build_index
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource
from recsys.retrieval.vector_index import VectorIndex, read_index
from serving.model_repository.compaction import Compactor
from serving.model_repository.turns import Turns
from tests.bundle.test_bundle import small_plan
from tests.bundle.test_live_items import found, word
from tests.retrieval.test_vector_index import NUM_ITEMS, USERS, VECTORS, clouds
from training.debug_bundle import make_debug_bundle

NOBODY = torch.zeros(1, 0, dtype=torch.int64)


@pytest.fixture(params=["built", "read"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> VectorIndex:
    built = build_index(VECTORS, USERS, IndexConfig(recall=0.97, k=20)).index
    if request.param == "built":
        return built
    built.write(tmp_path / "items.index")
    return read_index(tmp_path / "items.index", num_items=NUM_ITEMS)


class Case:
    """A source over vectors that move."""

    def __init__(self, index: VectorIndex) -> None:
        self.vectors = Float32Vectors(VECTORS.clone())
        self.vectors.make_room(100)
        self.source = TwoTowerSource(index)
        self.source.before_moving(self.vectors)
        self.unavailable = torch.arange(NUM_ITEMS + 101) == 0

    def put(self, rows: list[int], vectors: Tensor) -> None:
        index = torch.tensor(rows)
        self.vectors.put(index, vectors)
        self.source.moved(index)

    def nearest(self, user: Tensor, count: int = 10) -> list[int]:
        inputs = SourceInputs(
            user={}, user_vectors=user, item_vectors=self.vectors,
            item_activity=torch.zeros(len(self.vectors), 1),
        )  # fmt: skip
        unavailable = self.unavailable[: len(self.vectors)]
        return self.source.search(inputs, count, Excluded(unavailable, NOBODY)).item[0].tolist()

    def fold(self) -> None:
        live = self.source.index
        assert live is not None
        fold = live.fold(self.vectors)
        live.take(fold, fold.run())


def test_new_and_changed_rows_are_found_where_they_are_now_before_and_after_a_fold(
    index: VectorIndex,
) -> None:
    case = Case(index)
    user, other = clouds(1, seed=3), -clouds(1, seed=3)
    old = case.nearest(user)
    new = NUM_ITEMS + 1
    case.put([new], user)
    case.put([old[0]], other)
    for _ in range(2):
        assert case.nearest(user)[0] == new and old[0] not in case.nearest(user)
        assert case.nearest(user)[1:9] == old[1:9]
        assert case.nearest(other)[0] == old[0]
        case.fold()
        live = case.source.index
        assert live is not None and live.num_beside == 0 and live.index.num_items == new
    case.unavailable[new] = True
    assert new not in case.nearest(user)
    # Again, from the folded index.
    case.put([old[0]], user)
    assert case.nearest(user)[0] == old[0]
    case.fold()
    assert case.nearest(user)[0] == old[0] and old[0] not in case.nearest(other)


def test_what_moves_while_a_fold_is_made_stays_beside(index: VectorIndex) -> None:
    case = Case(index)
    user, other = clouds(1, seed=3), -clouds(1, seed=3)
    new = [NUM_ITEMS + 1, NUM_ITEMS + 2]
    case.put(new, torch.cat([user, user]))
    live = case.source.index
    assert live is not None
    fold = live.fold(case.vectors)
    case.put([new[0]], other)
    live.take(fold, fold.run())
    assert live.num_beside == 1
    assert case.nearest(user)[0] == new[1] and new[0] not in case.nearest(user)
    assert case.nearest(other)[0] == new[0]


def test_many_changes_leave_the_index_as_one_built_of_all(index: VectorIndex) -> None:
    case = Case(index)
    for step in range(4):
        rows = list(range(1 + step, NUM_ITEMS, 40))
        case.put(rows, clouds(len(rows), seed=10 + step))
        new = list(range(len(case.vectors), len(case.vectors) + 25))
        case.put(new, clouds(25, seed=20 + step))
        if step % 2:
            case.fold()
    hits = 0
    for user in clouds(40, seed=5).split(1):
        mine = set(case.nearest(user, 20))
        scores = (user @ case.vectors.decoded()[1:].T)[0]
        hits += len(mine & set((scores.topk(20).indices + 1).tolist()))
    assert hits / (40 * 20) > 0.93
    assert len(case.vectors) == NUM_ITEMS + 101


def test_a_served_bundle_folds_in_the_background_what_the_log_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.retrieval.index_build.MIN_ITEMS", 50)
    folder = make_debug_bundle(tmp_path / "made", plan=small_plan(), search="approximate")
    manifest = read_manifest(folder)
    assert manifest.metrics and folder.name == manifest.bundle_id
    assert manifest.index is not None  # set on the run's own users
    held = {kind.kind: kind.num_users for kind in manifest.index.found if kind.is_held}
    assert set(held) == {GATHERED, SCATTERED} and held[GATHERED] == 3 * held[SCATTERED]
    model = load_serving_model(folder, room=50)
    assert isinstance(model, TorchServingModel)
    model.search_from_items = 0
    turns = Turns()
    vocabulary = GrowingVocabulary(load_served_bundle(folder).vocabulary)
    describer = ItemDescriber(folder, read_manifest(folder), vocabulary)
    items = ModelItems(model, vocabulary, describer, room=50, turn=turns.turn)
    every = found(model)
    compactor = Compactor(model, turns, most_beside=10)
    items.apply([word(f"new-{i}", title=f"red {i}", category="mug") for i in range(9)])
    assert compactor.compact() == 0
    items.apply([word("item-3", title="a blue clock", category="clock")])
    created = set(range(81, 90))
    assert found(model) == every | created
    (live,) = model.items.live_indexes
    compactor.start()
    for _ in range(100):
        if live.num_beside == 0:
            break
        threading.Event().wait(0.1)
    compactor.stop()
    assert live.num_beside == 0 and live.index.num_items == 89
    assert found(model) == every | created
    items.apply([word("new-4", 1_800_000_000_000, available=False)])
    assert found(model) == every | created - {85}
