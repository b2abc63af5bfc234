"""The approximate index: its recall, what it must not find, and its file in a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.item_vectors import Float32Vectors
from recsys.errors import BundleError, InputError
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import IndexConfig, build_index
from recsys.retrieval.index_recall import UserKind, recall
from recsys.retrieval.item_filter import Passing
from recsys.retrieval.search_choice import APPROXIMATE_FROM_ITEMS, is_approximate
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource
from recsys.retrieval.vector_index import VectorIndex, read_index
from training.recipes import find_recipe

NUM_ITEMS, SIZE = 6_000, 16
CONFIG = IndexConfig(recall=0.97, k=20)


def clouds(count: int, *, seed: int) -> Tensor:
    """Vectors around forty centres that are the same for every seed."""
    centres = torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, 40, (count,), generator=generator)
    own = torch.randn(count, SIZE, generator=generator)
    return F.normalize(centres[chosen] + 0.7 * own, dim=1)


VECTORS = torch.cat([torch.zeros(1, SIZE), clouds(NUM_ITEMS, seed=1)])
ASKING = clouds(150, seed=2)
USERS = [UserKind(name="gathered", vectors=ASKING)]


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    return build_index(VECTORS, USERS, CONFIG).index


def exact(wanted: Tensor, k: int) -> Tensor:
    return (wanted @ VECTORS[1:].T).topk(k, dim=1).indices + 1


def test_it_looks_into_few_cells_and_has_the_recall_on_other_users(index: VectorIndex) -> None:
    others = clouds(300, seed=3)
    assert recall(index, VECTORS, others, exact(others, 20)) > 0.95
    assert index.num_probes < 100 < 4 * NUM_ITEMS**0.5
    fewer = build_index(VECTORS, USERS, replace(CONFIG, recall=0.6)).index
    assert fewer.num_probes < index.num_probes
    assert 0.5 < recall(fewer, VECTORS, others, exact(others, 20)) < 0.95


def test_the_same_vectors_give_the_same_bytes_and_the_file_finds_the_same(
    index: VectorIndex, tmp_path: Path
) -> None:
    torch.set_num_threads(2)
    again = build_index(VECTORS, USERS, CONFIG).index
    torch.set_num_threads(1)
    index.write(tmp_path / "one")
    again.write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = read_index(tmp_path / "one", num_items=NUM_ITEMS, oversample=index.oversample)
    assert read.num_probes == index.num_probes
    assert torch.equal(read.search(ASKING, 20), index.search(ASKING, 20))


def test_a_file_that_is_no_index_of_these_items_is_refused(
    index: VectorIndex, tmp_path: Path
) -> None:
    index.write(tmp_path / "index")
    with pytest.raises(BundleError, match="wanted an IndexIVFPQFastScan of 5 items"):
        read_index(tmp_path / "index", num_items=5)
    (tmp_path / "index").write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="build it again"):
        read_index(tmp_path / "index", num_items=NUM_ITEMS)


def test_few_items_get_no_index() -> None:
    with pytest.raises(InputError, match="2000 items or more"):
        build_index(VECTORS[:500], USERS)


def given(vectors: Tensor) -> SourceInputs:
    return SourceInputs(
        user={}, user_vectors=vectors, item_vectors=Float32Vectors(VECTORS),
        item_activity=torch.zeros(NUM_ITEMS + 1, 1),
    )  # fmt: skip


def half() -> Passing:
    """Lets every second item through: too many to be listed."""
    return Passing(torch.arange(NUM_ITEMS + 1) % 2 == 0)


def few() -> Passing:
    refused = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    refused[100:150] = False
    return Passing(refused)


def test_a_source_gives_k_of_what_may_be_found_and_their_true_scores(index: VectorIndex) -> None:
    wanted, k = clouds(90, seed=4), 20
    unavailable = torch.arange(NUM_ITEMS + 1) % 5 == 0
    best = exact(wanted, 30)
    gone = torch.where(best % 3 == 0, best, 0)  # of each user's own best
    passing = [(None, half(), few())[user % 3] for user in range(90)]
    shared = [passing[user % 3] for user in range(90)]
    excluded = Excluded(unavailable, gone, shared)
    found = TwoTowerSource(index).search(given(wanted), k, excluded)
    truth = TwoTowerSource().search(given(wanted), k, excluded)
    assert (found.item != 0).all() and not excluded.hits(found.item).any()
    assert all(len(set(row)) == k for row in found.item.tolist())
    same = (found.item.unsqueeze(2) == truth.item.unsqueeze(1)).any(dim=2).float().mean()
    assert same > 0.95
    scores = TwoTowerSource().scores(given(wanted), found.item)
    torch.testing.assert_close(found.score, scores)
    assert (found.score.diff(dim=1) <= 0).all()


def test_what_is_short_in_the_cells_is_searched_exactly(index: VectorIndex) -> None:
    # Nothing but 300 items far apart is left, more than a narrow filter would be listed for.
    unavailable = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    unavailable[1::20] = False
    excluded = Excluded(unavailable, torch.zeros(5, 0, dtype=torch.int64))
    wanted = clouds(5, seed=5)
    found = TwoTowerSource(index).search(given(wanted), 400, excluded)
    truth = TwoTowerSource().search(given(wanted), 400, excluded)
    assert ((found.item != 0).sum(dim=1) == 300).all()
    assert torch.equal(found.item, truth.item)


def test_withdrawn_and_offered_again_between_searches(index: VectorIndex) -> None:
    source, wanted = TwoTowerSource(index), clouds(1, seed=6)
    unavailable = torch.arange(NUM_ITEMS + 1) == 0
    nobody = torch.zeros(1, 0, dtype=torch.int64)
    first = source.search(given(wanted), 10, Excluded(unavailable, nobody)).item[0].tolist()
    unavailable[first[:3]] = True  # in place, as the catalogue's changes are
    found = source.search(given(wanted), 10, Excluded(unavailable, nobody)).item[0].tolist()
    assert not set(found) & set(first[:3]) and len(set(found) - {0}) == 10
    unavailable = unavailable.clone()
    unavailable[first[:3]] = False
    assert source.search(given(wanted), 10, Excluded(unavailable, nobody)).item[0].tolist() == first


def test_large_catalogues_are_searched_by_an_index_unless_the_recipe_says_otherwise() -> None:
    few, many = APPROXIMATE_FROM_ITEMS - 1, APPROXIMATE_FROM_ITEMS
    assert not is_approximate("auto", few) and is_approximate("auto", many)
    assert is_approximate("approximate", few) and not is_approximate("exact", many)
    assert find_recipe("demo").search == "auto"
