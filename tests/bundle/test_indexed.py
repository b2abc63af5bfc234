"""A bundle's index: the users it is set on, what is told of it, and bundles without one."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch

from recsys.bundle import cli
from recsys.bundle.compress import write_compressed
from recsys.bundle.index_users import (
    DRAWN,
    GATHERED,
    MIN_KNOWN,
    NEIGHBOURS,
    SCATTERED,
    kinds_of_users,
)
from recsys.bundle.indexed import write_indexed
from recsys.bundle.load import INDEX_FILE, load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError
from recsys.models.config import Precision
from recsys.models.filter_tokens import ItemFilter
from recsys.models.serving import TorchServingModel
from recsys.retrieval.index_build import IndexConfig
from tests.bundle.test_bundle import small_plan
from tests.models.test_served_answers import users
from tests.retrieval.test_item_filter import tensor
from training.debug_bundle import make_debug_bundle


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A bundle that ``auto`` gives an index, if one were worth it, and what was said."""
    said, logger = _Said(), logging.getLogger("training.bundle_run")
    logger.addHandler(said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.retrieval.search_choice.APPROXIMATE_FROM_ITEMS", 50)
        folder = make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())
    logger.removeHandler(said)
    return folder, [record.getMessage() for record in said.records]


def test_a_bundle_whose_items_no_index_is_worth_is_whole_without_one(
    made: tuple[Path, list[str]],
) -> None:
    folder, said = made  # 80 items: fewer than an index wants
    manifest = read_manifest(folder)
    assert manifest.index is None and INDEX_FILE not in manifest.files
    assert manifest.metrics["views"] and load_serving_model(folder).num_items == 80
    assert said == ["no index: items are searched exactly"]


def test_known_users_are_parted_by_how_far_apart_their_histories_lie(
    made: tuple[Path, list[str]],
) -> None:
    model = load_serving_model(made[0])
    assert isinstance(model, TorchServingModel)
    vectors = model.item_vectors()
    cosine = vectors[1:] @ vectors[1:].T
    far = int(cosine[0].argmin()) + 1
    near = int(cosine[0, 1:].argmax()) + 2
    asked = {name: tensor.clone() for name, tensor in users(model, MIN_KNOWN, seed=1).items()}
    asked["history_index"].zero_()
    asked["history_index"][:, -1] = 1
    asked["history_index"][:, -2] = near
    asked["history_index"][::4, -2] = far
    gathered, scattered, neighbours, drawn = kinds_of_users(model, asked, seed=1)
    assert (gathered.name, scattered.name) == (GATHERED, SCATTERED)
    assert (neighbours.name, drawn.name) == (NEIGHBOURS, DRAWN)
    assert gathered.is_held and scattered.is_held
    assert not neighbours.is_held and not drawn.is_held
    theirs = model.user_vectors({name: tensor[::4] for name, tensor in asked.items()})
    torch.testing.assert_close(scattered.vectors, theirs)
    assert len(gathered.vectors) == 3 * len(scattered.vectors) == MIN_KNOWN * 3 / 4


def test_where_few_or_no_users_are_known_the_made_up_ones_count(
    made: tuple[Path, list[str]],
) -> None:
    model = load_serving_model(made[0])
    assert isinstance(model, TorchServingModel)
    none = kinds_of_users(model, None, seed=1)
    assert [kind.name for kind in none] == [NEIGHBOURS, DRAWN]
    few = kinds_of_users(model, users(model, MIN_KNOWN - 1, seed=1), seed=1)
    assert [kind.name for kind in few] == [GATHERED, SCATTERED, NEIGHBOURS, DRAWN]
    assert all(kind.is_held for kind in (*none, *few))
    again = kinds_of_users(model, None, seed=1)
    assert all(torch.equal(a.vectors, b.vectors) for a, b in zip(none, again, strict=True))


def test_a_bundle_with_an_index_has_an_id_of_its_own_and_serves(
    made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("recsys.retrieval.index_build.MIN_ITEMS", 50)
    # Eighty items are enough for two cells.
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    store = BundleStore(tmp_path / "bundles")
    plain = store.add(made[0])
    small = IndexConfig(cells_by_root=0.25)
    write = partial(write_indexed, config=small)
    monkeypatch.setattr("recsys.bundle.indexed.write_indexed", write)
    assert cli.main(["index", plain]) == 0
    bundle_id = json.loads(capsys.readouterr().out)["bundle_id"]
    assert bundle_id != plain and cli.main(["index", plain]) == 0
    assert json.loads(capsys.readouterr().out)["bundle_id"] == bundle_id  # the same bytes
    assert cli.main(["show", bundle_id]) == 0
    shown = json.loads(capsys.readouterr().out)["index"]
    assert shown["k"] == 64 and shown["recall_wanted"] == 0.99  # of this recipe's candidates
    assert [kind["kind"] for kind in shown["found"]] == [NEIGHBOURS, DRAWN]
    assert all(kind["is_held"] and kind["recall"] >= 0.99 for kind in shown["found"])
    assert cli.main(["index", bundle_id]) == 1
    assert "has an index already" in capsys.readouterr().err
    folder = store.path(bundle_id)
    assert INDEX_FILE in read_manifest(folder).files
    model, other = load_serving_model(folder), load_serving_model(store.path(plain))
    assert isinstance(model, TorchServingModel) and isinstance(other, TorchServingModel)
    (live,) = model.items.live_indexes
    assert live.index.oversample == shown["oversample"]
    assert live.index.num_probes == shown["num_probes"]
    smaller = Precision(item_vectors="float16")
    compressed = write_compressed(folder, smaller, tmp_path / "compressed", now_ms=0)
    assert compressed.index is not None and compressed.index.model_dump(mode="json") == shown
    model.search_from_items = other.search_from_items = 0
    asked = {
        "num_candidates": 20, "exclude_index": torch.zeros(4, 1, dtype=torch.int32),
        "exclude_history": torch.ones(4, 1, dtype=torch.bool),
        "filters": tensor([ItemFilter()] * 4),
    }  # fmt: skip
    found = model.retrieve(users(model, 4, seed=1), **asked).item_index
    exact = other.retrieve(users(other, 4, seed=1), **asked).item_index
    assert (found.unsqueeze(2) == exact.unsqueeze(1)).any(dim=2).float().mean() > 0.9
    data = bytearray((folder / INDEX_FILE).read_bytes())
    data[-1] ^= 1
    (folder / INDEX_FILE).write_bytes(data)
    with pytest.raises(BundleError, match=r"items\.index is damaged"):
        load_serving_model(folder)
