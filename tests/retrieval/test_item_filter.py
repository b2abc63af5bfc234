"""Filters during the search: nothing refused comes back, and ``k`` come whenever ``k`` exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recsys.bundle.item_tags import ItemTags
from recsys.bundle.load import load_serving_model
from recsys.compression.item_vectors import Float32Vectors, Int8Vectors, ItemVectors
from recsys.data.catalogue import read_catalogue_frame
from recsys.models.filter_tokens import ItemFilter
from recsys.models.serving import TorchServingModel
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.item_filter import ItemFilters, Passing
from recsys.retrieval.popular import PopularSource
from recsys.retrieval.source import CandidateSource, SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource
from tests.bundle.test_bundle import small_plan
from tests.models.test_served_answers import users
from training.debug_bundle import make_debug_bundle

NUM_ITEMS = 4_000
CPU = torch.device("cpu")


def tokens_of(row: int) -> list[str]:
    """Half of the items are even, one in ten is tenth, one in 200 rare."""
    named = {"even": row % 2 == 0, "tenth": row % 10 == 0, "rare": row % 200 == 0}
    return [f"kind={name}" for name, is_so in named.items() if is_so]


TAGS = ItemTags.of(pl.Series([tokens_of(row) for row in range(1, NUM_ITEMS + 1)]))
FILTERS = ItemFilters(TAGS, num_items=NUM_ITEMS, device=CPU)
ASKED = [
    ItemFilter(),
    ItemFilter((("kind=even",),)),
    ItemFilter((("kind=tenth",),), ("kind=rare",)),
    ItemFilter((("kind=rare",),)),
    ItemFilter((("kind=nobody",),)),
    ItemFilter((), ("kind=even",)),
    ItemFilter((("kind=rare",),)),
]


def tensor(asked: list[ItemFilter]) -> Tensor:
    pairs = [one.pairs() for one in asked]
    widest = max(map(len, pairs))
    return torch.from_numpy(
        np.stack([np.pad(one, ((0, widest - len(one)), (0, 0))) for one in pairs])
    )


def allowed(asked: ItemFilter, excluded: Tensor, unavailable: Tensor) -> list[int]:
    def passes(row: int) -> bool:
        have = set(tokens_of(row))
        return all(have & set(clause) for clause in asked.clauses) and not have & set(
            asked.unwanted
        )

    gone = set(excluded.tolist()) | set(unavailable.nonzero().flatten().tolist())
    return [row for row in range(1, NUM_ITEMS + 1) if row not in gone and passes(row)]


def inputs(vectors: ItemVectors, size: int) -> SourceInputs:
    generator = torch.Generator().manual_seed(5)
    return SourceInputs(
        user={},
        user_vectors=torch.randn(size, 8, generator=generator),
        item_vectors=vectors,
        item_activity=torch.rand(NUM_ITEMS + 1, 2, generator=generator),
    )


@pytest.mark.parametrize("source", [TwoTowerSource(), PopularSource(torch.tensor([1.0, 2.0]))])
@pytest.mark.parametrize("encode", [Float32Vectors, Int8Vectors.encode])
def test_a_search_gives_the_best_of_what_passes(
    source: CandidateSource, encode: type[Float32Vectors]
) -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(NUM_ITEMS + 1, 8, generator=generator)
    vectors[0] = 0.0
    given = inputs(encode(vectors), len(ASKED))
    unavailable = torch.rand(NUM_ITEMS + 1, generator=generator) < 0.2
    unavailable[0] = True
    gone = torch.randint(0, NUM_ITEMS + 1, (len(ASKED), 30), generator=generator)
    excluded = Excluded(unavailable, gone, FILTERS.of(tensor(ASKED)))
    assert {one.rows is None for one, _ in excluded.filters} == {True, False}
    assert len(excluded.filters) == 5  # the same filter twice is one
    found = source.search(given, 50, excluded)
    every = torch.arange(NUM_ITEMS + 1).expand(len(ASKED), -1)
    scores = source.scores(given, every)
    for user, asked in enumerate(ASKED):
        wanted = allowed(asked, gone[user], unavailable)
        item = found.item[user][found.item[user] != 0].tolist()
        assert len(item) == min(50, len(wanted)) == len(set(item))
        assert set(item) <= set(wanted)
        theirs = scores[user, torch.tensor(wanted, dtype=torch.int64)]
        best = theirs.topk(len(item)).values
        # An int8 search encodes the user as well, where it looks at the whole table.
        torch.testing.assert_close(scores[user, item], best, atol=0.05, rtol=0)
        hits = excluded.hits(every)[user]
        assert (~hits).nonzero().flatten().tolist() == wanted
    assert torch.equal(excluded.table(), excluded.hits(every))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("size", [1, 7])
def test_a_mask_hides_what_the_table_says(share: float, size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    unavailable = torch.rand(NUM_ITEMS + 1, generator=generator) < share
    unavailable[0] = True
    gone = torch.randint(0, NUM_ITEMS + 1, (size, 20), generator=generator)
    excluded = Excluded(unavailable, gone)
    masked = excluded.mask(torch.zeros(size, NUM_ITEMS + 1))
    assert torch.equal(masked == -torch.inf, excluded.table())


def test_a_filter_is_resolved_once_whatever_its_order() -> None:
    filters = ItemFilters(TAGS, num_items=NUM_ITEMS, device=CPU)
    one = ItemFilter((("kind=even", "kind=tenth"),), ("kind=rare",))
    other = ItemFilter((("kind=tenth", "kind=even"),), ("kind=rare",))
    first, second = filters.of(tensor([one, other]))
    assert first is second
    for number in range(40):
        filters.of(tensor([ItemFilter((("kind=even",),), (f"kind={number}",))]))
    again = filters.of(tensor([one]))[0]
    assert again is not first and again is not None and first is not None
    assert torch.equal(again.refused, first.refused)


def test_a_filter_follows_items_that_come_and_change_and_is_the_same_object_where_it_is() -> None:
    tags = ItemTags.of(pl.Series([["kind=a"], ["kind=b"], ["kind=a", "kind=b"]]))
    filters = ItemFilters(tags, num_items=3, device=CPU)
    asked = [ItemFilter((("kind=a",),)), ItemFilter((), ("kind=b",)), ItemFilter((("kind=c",),))]

    def passing() -> tuple[list[Passing | None], list[list[int]]]:
        found = filters.of(tensor(asked))
        return found, [(~p.refused).nonzero().flatten().tolist() for p in found if p is not None]

    first, rows = passing()
    assert rows == [[1, 3], [1], []]
    filters.change({2: ["kind=b", "kind=d"]})  # nothing that anybody asked for
    assert all(a is b for a, b in zip(first, passing()[0], strict=True))
    filters.change({1: ["kind=b"]})
    filters.grow(6)
    filters.change({4: ["kind=a", "kind=c"], 5: []})
    found, rows = passing()
    assert rows == [[3, 4], [4, 5], [4]] and found[2] is not first[2]
    filters.change({1: ["kind=a"], 4: []})  # back to what it was
    assert passing()[1] == [[1, 3], [1, 4, 5], []]
    assert tags.rows("kind=a").tolist() == [1, 3] and tags.rows("kind=c").tolist() == []


def test_a_filter_is_narrow_from_one_item_in_eight_on() -> None:
    refused = torch.ones(81, dtype=torch.bool)
    refused[1:11] = False
    rows = Passing(refused).rows
    assert rows is not None and rows.tolist() == list(range(1, 11))
    refused[11] = False
    assert Passing(refused).rows is None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


@pytest.mark.parametrize("search_from", [0, 10**9])
def test_a_model_gives_k_of_a_category_whenever_k_exist(bundle: Path, search_from: int) -> None:
    model = load_serving_model(bundle)
    assert isinstance(model, TorchServingModel)
    model.search_from_items = search_from
    frame = read_catalogue_frame(bundle / "catalogue.parquet")
    category = frame["category"].value_counts(sort=True)["category"][0]
    wanted = frame.filter(pl.col("category") == category, "available")["item_index"].to_list()
    asked = [ItemFilter.of(categories=[category]), ItemFilter(), ItemFilter.of(categories=["?"])]
    found = model.retrieve(
        users(model, 3, seed=1), num_candidates=model.num_items,
        exclude_index=torch.zeros(3, 1, dtype=torch.int32),
        exclude_history=torch.zeros(3, 1, dtype=torch.bool), filters=tensor(asked),
    ).item_index  # fmt: skip
    assert sorted(row for row in found[0].tolist() if row) == wanted
    assert (found[1] != 0).sum() == frame["available"].sum() > len(wanted)
    assert not found[2].any()
