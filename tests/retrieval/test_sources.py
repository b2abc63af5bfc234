"""Candidate sources against values worked out by hand, and their fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from recsys.compression.item_vectors import Float32Vectors
from recsys.errors import BundleError
from recsys.models.config import SourceMix
from recsys.models.growing_rows import GrowingRows
from recsys.retrieval.best import best as best_of
from recsys.retrieval.ease import fit_ease, strongest
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.fusion import fuse
from recsys.retrieval.history import HistorySource
from recsys.retrieval.item_filter import Passing
from recsys.retrieval.item_knn import fit_item_knn
from recsys.retrieval.item_to_item import ItemToItemSource
from recsys.retrieval.mix import build_sources
from recsys.retrieval.pool import fuse_found
from recsys.retrieval.popular import PopularSource
from recsys.retrieval.row_changes import RowChanges
from recsys.retrieval.source import Found, SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource

DAY_S = 86_400.0
USER = torch.tensor([0, 0, 0, 1, 1, 2, 2])
ITEM = torch.tensor([1, 2, 3, 1, 2, 1, 3])
WEIGHT = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0])


def inputs(index: list[list[int]], age_days: list[list[float]], num_items: int = 3) -> SourceInputs:
    rows = torch.tensor(index, dtype=torch.int32)
    return SourceInputs(
        user={
            "history_index": rows,
            "history_count": (rows != 0).float(),
            "history_age_s": torch.tensor(age_days) * DAY_S,
        },
        user_vectors=torch.ones(len(rows), 2),
        item_vectors=Float32Vectors(torch.ones(num_items + 1, 2)),
        item_activity=torch.zeros(num_items + 1, 1),
    )


def test_ease_solves_what_it_says() -> None:
    found = fit_ease(USER, ITEM, WEIGHT, num_users=3, num_items=3, penalty=2.0)
    matrix = torch.zeros(3, 4)
    matrix[USER, ITEM] = WEIGHT
    inverse = torch.linalg.inv(matrix.T @ matrix + 2.0 * torch.eye(4))
    wanted = -inverse / inverse.diagonal().unsqueeze(0)
    wanted.fill_diagonal_(0.0)
    torch.testing.assert_close(found[1:, 1:], wanted[1:, 1:])
    assert not found[0].any() and not found[:, 0].any()


def test_strongest_keeps_positive_weights_and_pads() -> None:
    index, weight = strongest(torch.tensor([[0.0, 0.0], [0.0, -1.0]]), 2)
    assert index.tolist() == [[0, 0], [0, 0]] and not weight.any()


def test_item_knn_is_a_shrunk_cosine() -> None:
    index, weight = fit_item_knn(
        USER, ITEM, WEIGHT, num_users=3, num_items=3, num_neighbours=2, shrinkage=1.0
    )
    norm1, norm2 = 3**0.5, 2**0.5
    row = dict(zip(index[1].tolist(), weight[1].tolist(), strict=True))
    assert row[2] == pytest.approx(2.0 / (norm1 * norm2 + 1.0))
    assert 1 not in row


def test_item_knn_is_the_dense_cosine_in_every_block() -> None:
    num_users, num_items = 60, 700  # more items than a block, some that nobody took
    rng = torch.Generator().manual_seed(2)
    taken = torch.rand(num_users, num_items + 1, generator=rng) < 0.02
    taken[:, [0, 5, 600]] = False
    user, item = taken.nonzero(as_tuple=True)
    weight = torch.rand(len(user), generator=rng) + 0.1
    index, found = fit_item_knn(
        user, item, weight, num_users=num_users, num_items=num_items, num_neighbours=num_items,
        shrinkage=2.0,
    )  # fmt: skip
    dense = torch.zeros(num_users, num_items + 1)
    dense[user, item] = weight
    norm = dense.norm(dim=0)
    wanted = dense.T @ dense / (norm.unsqueeze(1) * norm.unsqueeze(0) + 2.0)
    wanted.fill_diagonal_(0.0)
    restored = torch.zeros_like(wanted).scatter_(1, index.long(), found)
    torch.testing.assert_close(restored, wanted)
    assert not found[5].any() and not found[600].any()
    assert (found.diff(dim=1) <= 0).all()


def nothing(num_users: int, num_items: int = 3) -> Excluded:
    unavailable = torch.zeros(num_items + 1, dtype=torch.bool)
    unavailable[0] = True
    return Excluded(unavailable, torch.zeros(num_users, 0, dtype=torch.int64))


def excluding(items: list[int], num_items: int = 3) -> Excluded:
    return Excluded(nothing(1, num_items).unavailable, torch.tensor([items]))


def every(num_users: int, num_items: int = 3) -> torch.Tensor:
    return torch.arange(num_items + 1).expand(num_users, -1)


def test_neighbours_add_up_and_old_ones_count_less() -> None:
    neighbours = torch.tensor([[0, 0], [2, 3], [3, 0], [0, 0]])
    weights = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 0.0], [0.0, 0.0]])
    source = ItemToItemSource("item_to_item", neighbours, weights, half_life_days=10.0)
    given = inputs([[0, 1, 2], [0, 0, 0]], [[0, 10, 0], [0, 0, 0]])
    scores = source.scores(given, every(2))
    assert scores[0].tolist() == pytest.approx([0.0, 0.0, 0.5, 2.25])
    assert not scores[1].any()
    found = source.search(given, 3, nothing(2))
    assert found.item.tolist() == [[3, 2, 0], [0, 0, 0]]
    assert found.score[0].tolist() == pytest.approx([2.25, 0.5, 0.0])


def test_history_scores_what_was_had_and_nothing_else() -> None:
    source, given = HistorySource(half_life_days=1.0), inputs([[0, 2, 3]], [[0, 1, 0]])
    assert source.scores(given, every(1))[0].tolist() == pytest.approx(
        [0.0, 0.0, 0.5 * 0.6931472, 0.6931472]
    )
    assert source.search(given, 2, nothing(1)).item.tolist() == [[3, 2]]
    assert source.search(given, 2, excluding([3])).item.tolist() == [[2, 0]]


def test_popular_gives_as_many_as_there_are_whatever_is_excluded() -> None:
    source = PopularSource(torch.tensor([1.0]))
    given = replace(inputs([[0]], [[0]]), item_activity=torch.tensor([[0.0], [2.0], [9.0], [0.0]]))
    assert source.search(given, 2, nothing(1)).item.tolist() == [[2, 1]]
    assert source.search(given, 2, excluding([2])).item.tolist() == [[1, 3]]
    # An item that became unavailable, and new activity, count from then on.
    withdrawn = torch.tensor([True, False, True, False])
    gone = Excluded(withdrawn, torch.tensor([[3, 0]]))
    assert source.search(given, 3, gone).item.tolist() == [[1, 0, 0]]
    later = replace(given, item_activity=given.item_activity.flip(0))
    assert source.search(later, 3, nothing(1)).item.tolist() == [[1, 2, 3]]
    assert source.scores(later, every(1))[0, 1:].tolist() == pytest.approx(
        torch.tensor([9.0, 2.0, 0.0]).log1p().tolist()
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.9, 0.02])
def test_popular_follows_rows_that_are_written_added_withdrawn_and_offered_again(
    monkeypatch: pytest.MonkeyPatch, seed: int, share: float
) -> None:
    monkeypatch.setattr("recsys.retrieval.popular._HEAD", 40)
    generator = torch.Generator().manual_seed(seed)
    num_items, weights = 500, torch.tensor([1.0, 0.3])
    activity = torch.rand(num_items + 1, 2, generator=generator) * 9
    changes, source = RowChanges(num_items + 1), PopularSource(weights)
    unavailable = torch.rand(num_items + 1, generator=generator) < 0.2
    unavailable[0] = True
    held, gone = GrowingRows(activity, room=60), GrowingRows(unavailable, room=30)
    activity, unavailable = held.rows, gone.rows
    passing = Passing(torch.rand(num_items + 1, generator=generator) < share)
    passing.refused[0] = True
    given = replace(
        inputs([[0], [0]], [[0], [0]]), item_activity=activity, item_changes=changes,
    )  # fmt: skip
    for step in range(60):
        size = int(torch.randint(0, 70 if step % 7 == 0 else 6, (1,), generator=generator))
        rows = torch.randperm(num_items, generator=generator)[:size] + 1
        activity[rows] = torch.rand(size, 2, generator=generator) * (20 if step % 2 else 1)
        changes.add(rows)
        if step % 5 == 0:  # withdrawn and offered again
            moved = torch.randperm(num_items, generator=generator)[:8] + 1
            unavailable[moved] = ~unavailable[moved]
            changes.add(moved)
        if step in (20, 40):
            held.put(torch.arange(num_items + 1, num_items + 31), torch.rand(30, 2) * 9)
            gone.put(torch.arange(num_items + 1, num_items + 31), torch.rand(30) < 0.2)
            num_items, activity, unavailable = num_items + 30, held.rows, gone.rows
            changes.add(torch.arange(num_items - 29, num_items + 1))
            given = replace(given, item_activity=activity)
            passing = Passing(torch.rand(num_items + 1, generator=generator) < share)
            passing.refused[0] = True
        if step == 30:
            unavailable = unavailable.clone()
            unavailable[torch.randperm(num_items, generator=generator)[:50] + 1] = True
            gone = GrowingRows(unavailable, room=30)
            unavailable = gone.rows
        if step % 3 == 0:  # looked at now and then: several writes are followed at once
            fresh = replace(given, item_activity=activity.clone(), item_changes=RowChanges())
            index = torch.randint(0, num_items, (2, 4), generator=generator)
            asked = Excluded(unavailable, index, [None, passing])
            for count in (1, 20, 60):
                found, anew = (
                    one.search(with_what, count, asked)
                    for one, with_what in ((source, given), (PopularSource(weights), fresh))
                )
                assert torch.equal(found.item, anew.item)
                assert torch.equal(found.score, anew.score)


def test_towers_score_in_deviations_from_the_mean_over_the_catalogue() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(400, 8, generator=generator)
    vectors[0] = 0.0
    given = replace(
        inputs([[0], [0]], [[0], [0]]),
        user_vectors=torch.randn(2, 8, generator=generator),
        item_vectors=Float32Vectors(vectors),
    )
    source = TwoTowerSource()
    cosine = given.user_vectors @ vectors[1:].T
    wanted = (cosine - cosine.mean(1, keepdim=True)) / cosine.std(1, keepdim=True, correction=0)
    found = source.scores(given, every(2, 399))
    torch.testing.assert_close(found[:, 1:], wanted, atol=1e-5, rtol=1e-5)
    best = source.search(given, 5, nothing(2, 399))
    assert torch.equal(best.item, wanted.topk(5, dim=1).indices + 1)
    torch.testing.assert_close(best.score, wanted.topk(5, dim=1).values, atol=1e-5, rtol=1e-5)


class Told:
    """A source that says what it is told to."""

    name, knows_all = "told", True

    def __init__(self, scores: torch.Tensor) -> None:
        self.table = scores

    def search(self, _inputs: object, count: int, excluded: Excluded) -> Found:
        value, item = excluded.mask(self.table.clone()).topk(count, dim=1)
        missing = value == -torch.inf
        return Found(item.masked_fill(missing, 0), value.masked_fill(missing, 0.0))


def fuse_told(
    scores: torch.Tensor, excluded: Excluded, count: int, weights: Sequence[float],
    quotas: Sequence[int], search: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """Fuse ``[B, S, N + 1]`` scores."""
    sources = [Told(scores[:, s]) for s in range(scores.shape[1])]
    return fuse_found(
        [source.search(None, search or count, excluded) for source in sources],
        lambda index: torch.stack([source.table.gather(1, index) for source in sources], dim=1),
        weights=weights, quotas=quotas, num_candidates=count,
    ).item_index  # fmt: skip


def fused(scores, k, excluded=(), weights=(1.0, 1.0), quotas=(0, 0)):
    given = torch.tensor([scores])
    return fuse_told(given, excluding(list(excluded)), k, weights, quotas)[0].tolist()


def test_fusion_blends_sources_by_their_own_best() -> None:
    scores = [[0.0, 4.0, 2.0, 0.0], [0.0, 0.01, 0.09, 0.1]]
    assert fused(scores, 3) == [2, 1, 3]


def test_a_quota_brings_in_what_only_one_source_knows() -> None:
    scores = [[0.0, 4.0, 3.9, 0.0], [0.0, 0.0, 0.0, 0.1]]
    assert fused(scores, 1, weights=(1.0, 0.01)) == [1]
    assert 3 in fused(scores, 1, weights=(1.0, 0.01), quotas=(0, 1))


def test_as_many_as_exist_and_then_padding() -> None:
    scores = [[9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert sorted(fused(scores, 3, excluded=[2])) == [0, 1, 3]


@pytest.mark.parametrize(
    "quotas", [(0, 0, 0), (2, 2, 2), (3, 0, 3), (1, 2, 1), (50, 1, 50), (0,), (3,)]
)
def test_fusion_of_short_lists_is_that_of_the_whole_catalogue(quotas: tuple[int, ...]) -> None:
    """Where each source's list is the catalogue, nothing is missing from the pool."""
    generator = torch.Generator().manual_seed(0)
    weights = (0.5, 1.0, 0.3)[: len(quotas)]
    for _ in range(20):
        scores = torch.randn(4, len(quotas), 31, generator=generator)
        unavailable = torch.rand(31, generator=generator) < 0.2
        unavailable[0] = True
        excluded = Excluded(unavailable, torch.randint(0, 31, (4, 3), generator=generator))
        hits = excluded.hits(every(4, 30))
        wanted = fuse(
            scores.unbind(1), weights=weights, quotas=quotas, excluded=excluded, num_candidates=20
        )
        found = fuse_told(scores, excluded, 20, weights, quotas, search=30)
        for row in range(4):
            known = (scores[row, :, wanted[row]] > 0).any(dim=0) & (wanted[row] != 0)
            count = int(known.sum())  # the rest are equals, in any order
            assert found[row, :count].tolist() == wanted[row, :count].tolist()
        assert torch.equal((found != 0).sum(dim=1), (~hits).sum(dim=1).clamp(max=20))
        assert not excluded.hits(found.long())[found != 0].any()


@pytest.mark.parametrize("length", [1, 63, 64, 5_000, 70_001])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_the_best_of_a_long_row_are_those_of_topk(length: int, k: int) -> None:
    generator = torch.Generator().manual_seed(length + k)
    scores = torch.randn(3, length, generator=generator)
    scores[1] = scores[1].round()  # ties
    scores[2, length // 2 :] = -torch.inf
    value, place = best_of(scores, k)
    assert torch.equal(value, scores.topk(min(k, length), dim=1).values)
    assert torch.equal(scores.gather(1, place), value)
    assert all(len(set(row)) == len(row) for row in place.tolist())


def test_excluded_items_are_known_however_they_are_given() -> None:
    excluded = Excluded(
        torch.tensor([True, False, True, False, False, False]), torch.tensor([[5, 0, 3], [0, 0, 0]])
    )
    assert excluded.hits(torch.arange(6).expand(2, -1)).tolist() == [
        [True, False, True, True, False, True], [True, False, True, False, False, False],
    ]  # fmt: skip
    hits = excluded.hits(torch.arange(6).expand(2, -1))
    assert torch.equal(excluded.mask(torch.zeros(2, 6)) == -torch.inf, hits)
    of_sources = excluded.mask(torch.zeros(2, 3, 6)) == -torch.inf
    assert torch.equal(of_sources, hits.unsqueeze(1).expand(-1, 3, -1))


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(BundleError, match="crystal_ball"):
        build_sources(
            SourceMix(names=("crystal_ball",), weights=(1.0,), quotas=(0,)),
            neighbour_index=torch.zeros(1, 1), neighbour_weight=torch.zeros(1, 1),
            popular_weights=torch.zeros(1),
        )  # fmt: skip
