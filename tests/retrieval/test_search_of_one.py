"""A user who asks alone gets what the same user gets among others, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.compression.item_vectors import Float16Vectors, Float32Vectors, ItemVectors
from recsys.retrieval.best import largest_of_one
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import build_index
from recsys.retrieval.moments import Moments
from recsys.retrieval.nearest_items import gathered_products
from recsys.retrieval.pair_products import pair_products
from recsys.retrieval.source import Found, SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource
from recsys.retrieval.vector_index import VectorIndex
from tests.retrieval.test_vector_index import CONFIG, NUM_ITEMS, USERS, VECTORS, clouds

ASKING = clouds(40, seed=21)
NOBODY = torch.zeros(len(ASKING), 0, dtype=torch.int64)


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    return build_index(VECTORS, USERS, CONFIG).index


def searched(
    source: TwoTowerSource, vectors: ItemVectors, users: Tensor, excluded: Excluded, k: int = 20
) -> Found:
    given = SourceInputs(
        user={}, user_vectors=users, item_vectors=vectors,
        item_activity=torch.zeros(NUM_ITEMS + 1, 1),
    )  # fmt: skip
    found = source.search(given, k, excluded)
    known = found.item != 0
    scores = source.scores(given, found.item)
    # With rows beside the index, which a product of matrices finds, in the last bits.
    torch.testing.assert_close(found.score[known], scores[known])
    return found


def alone_and_among_others(
    index: VectorIndex, vectors: ItemVectors, unavailable: Tensor, gone: Tensor, *, k: int = 20,
    moved: Tensor | None = None,
) -> tuple[Found, Found]:  # fmt: skip
    source = TwoTowerSource(index)
    if moved is not None:
        source.moved(moved)
    alone, among = (
        [
            searched(
                source, vectors, ASKING[at : at + size],
                Excluded(unavailable, gone[at : at + size]), k,
            )
            for at in range(0, len(ASKING), size)
        ]
        for size in (1, 8)  # from 20 on faiss multiplies matrices to choose cells
    )  # fmt: skip
    return joined(alone), joined(among)


def joined(parts: list[Found]) -> Found:
    return Found(torch.cat([p.item for p in parts]), torch.cat([p.score for p in parts]))


@pytest.mark.parametrize("precision", [Float32Vectors, Float16Vectors])
def test_alone_as_among_others(index: VectorIndex, precision: type[Float32Vectors]) -> None:
    vectors = precision(VECTORS)
    everything, some = torch.arange(NUM_ITEMS + 1) == 0, torch.arange(NUM_ITEMS + 1) % 5 == 0
    first, _ = alone_and_among_others(index, vectors, everything, NOBODY)
    # Six of each user's own best, with padding between: as many more are scored anew of each.
    gone = first.item.clone()
    gone[:, 1::2] = gone[:, 12:] = 0
    for unavailable, excluded in ((everything, NOBODY), (everything, gone), (some, gone)):
        alone, among = alone_and_among_others(index, vectors, unavailable, excluded)
        assert torch.equal(alone.item, among.item) and torch.equal(alone.score, among.score)
        assert not unavailable[alone.item].any()
        assert not ((alone.item.unsqueeze(2) == excluded.unsqueeze(1)).any(dim=2)).any()


def test_alone_as_among_others_with_rows_beside_the_index(index: VectorIndex) -> None:
    moved = torch.arange(5, NUM_ITEMS, 50)
    vectors = VECTORS.clone()
    vectors[moved] = clouds(len(moved), seed=22)
    unavailable = torch.arange(NUM_ITEMS + 1) == 0
    alone, among = alone_and_among_others(
        index, Float32Vectors(vectors), unavailable, NOBODY, moved=moved
    )
    assert torch.equal(alone.item, among.item)
    torch.testing.assert_close(alone.score, among.score)
    assert torch.isin(alone.item, moved).any()


def test_withdrawn_in_place_after_the_first_search_is_not_found_alone(index: VectorIndex) -> None:
    source, vectors = TwoTowerSource(index), Float32Vectors(VECTORS)
    unavailable = torch.arange(NUM_ITEMS + 1) == 0
    excluded = Excluded(unavailable, NOBODY[:1])
    first = searched(source, vectors, ASKING[:1], excluded).item[0]
    unavailable[first[:3]] = True
    again = searched(source, vectors, ASKING[:1], excluded).item[0]
    assert again[:17].tolist() == first[3:].tolist() and (again != 0).all()


def test_who_finds_too_little_in_the_cells_alone_is_searched_exactly(index: VectorIndex) -> None:
    unavailable = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    unavailable[1::20] = False  # 300 items
    alone, among = alone_and_among_others(
        index, Float32Vectors(VECTORS), unavailable, NOBODY, k=400
    )
    assert ((alone.item != 0).sum(dim=1) == 300).all()
    assert torch.equal(alone.item, among.item)


def test_moments_of_one_user_are_those_of_many() -> None:
    moments = Moments(Float32Vectors(VECTORS))
    users = torch.cat([clouds(100, seed=23), torch.zeros(1, VECTORS.shape[1])])
    mean, deviation = moments.of(users)
    alone = torch.tensor([moments.of_one(user) for user in users.numpy()])
    assert torch.equal(alone, torch.cat([mean, deviation], dim=1))
    cosines = users @ VECTORS[1:].T
    torch.testing.assert_close(mean, cosines.mean(dim=1, keepdim=True), atol=1e-6, rtol=0)
    spread = cosines.std(dim=1, keepdim=True, correction=0)
    torch.testing.assert_close(deviation[:-1], spread[:-1], atol=1e-6, rtol=0)
    assert deviation[-1] == torch.tensor(1e-6)  # a user of no direction


def test_products_of_pairs_are_the_same_whatever_else_is_asked() -> None:
    place = torch.randint(0, len(VECTORS), (40, 70), generator=torch.Generator().manual_seed(24))
    products = pair_products(ASKING, VECTORS, place)
    torch.testing.assert_close(products, gathered_products(ASKING, VECTORS, place))
    one = [pair_products(ASKING[u : u + 1], VECTORS, place[u : u + 1, 3:]) for u in range(40)]
    assert torch.equal(torch.cat(one), products[:, 3:])
    assert pair_products(ASKING, VECTORS, place[:, :0]).shape == (40, 0)


@pytest.mark.parametrize("outside", [-1, len(VECTORS)])
def test_a_place_outside_the_table_is_refused(outside: int) -> None:
    with pytest.raises(IndexError, match=f"wanted places from 0 to {NUM_ITEMS}, found .*{outside}"):
        pair_products(ASKING[:1], VECTORS, torch.tensor([[1, outside, 2]]))


def test_another_table_and_other_unavailable_items_are_taken_up_by_the_next_search(
    index: VectorIndex,
) -> None:
    source, available = TwoTowerSource(index), torch.arange(NUM_ITEMS + 1) == 0
    first = searched(source, Float32Vectors(VECTORS), ASKING[:1], Excluded(available, NOBODY[:1]))
    withdrawn = available.clone()
    withdrawn[first.item[0, 0]] = True
    others = Float32Vectors(VECTORS.clone())
    others.make_room(1)
    others.put(first.item[0, 1:2], -VECTORS[first.item[0, 1:2]])
    others.put(torch.tensor([NUM_ITEMS + 1]), torch.zeros(1, VECTORS.shape[1]))
    again = searched(source, others, ASKING[:1], Excluded(withdrawn, NOBODY[:1]))
    assert again.item[0, :18].tolist() == first.item[0, 2:].tolist()


@pytest.mark.parametrize("length", [0, 3, 300, 3_000])
def test_the_largest_of_a_row_are_those_of_many_rows(length: int) -> None:
    scores = torch.randint(-40, 40, (length,), generator=torch.Generator().manual_seed(25)).float()
    place = torch.from_numpy(largest_of_one(scores.numpy(), min(100, length)))
    wanted = scores.sort(descending=True, stable=True).indices[:100]
    assert torch.equal(place, wanted)
