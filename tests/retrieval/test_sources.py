"""Candidate sources against values worked out by hand, and their fusion."""

from __future__ import annotations

import pytest
import torch

from recsys.compression.item_vectors import Float32Vectors
from recsys.errors import BundleError
from recsys.models.config import SourceMix
from recsys.retrieval.ease import fit_ease, strongest
from recsys.retrieval.fusion import fuse
from recsys.retrieval.history import HistorySource
from recsys.retrieval.item_knn import fit_item_knn
from recsys.retrieval.item_to_item import ItemToItemSource
from recsys.retrieval.mix import build_sources
from recsys.retrieval.source import SourceInputs

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


def test_neighbours_add_up_and_old_ones_count_less() -> None:
    neighbours = torch.tensor([[0, 0], [2, 3], [3, 0], [0, 0]])
    weights = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 0.0], [0.0, 0.0]])
    source = ItemToItemSource("item_to_item", neighbours, weights, half_life_days=10.0)
    scores = source.scores(inputs([[0, 1, 2], [0, 0, 0]], [[0, 10, 0], [0, 0, 0]]))
    assert scores[0].tolist() == pytest.approx([0.0, 0.0, 0.5, 2.25])
    assert not scores[1].any()


def test_history_scores_what_was_had_and_nothing_else() -> None:
    scores = HistorySource(half_life_days=1.0).scores(inputs([[0, 2, 3]], [[0, 1, 0]]))
    assert scores[0].tolist() == pytest.approx([0.0, 0.0, 0.5 * 0.6931472, 0.6931472])


def fused(scores, excluded, k, weights=(1.0, 1.0), quotas=(0, 0)):
    return fuse(
        torch.tensor([scores]), weights=weights, quotas=quotas,
        excluded=torch.tensor([excluded]), num_candidates=k,
    )[0].tolist()  # fmt: skip


def test_fusion_blends_sources_by_their_own_best() -> None:
    scores = [[0.0, 4.0, 2.0, 0.0], [0.0, 0.01, 0.09, 0.1]]
    assert fused(scores, [True, False, False, False], 3) == [2, 1, 3]


def test_a_quota_brings_in_what_only_one_source_knows() -> None:
    scores = [[0.0, 4.0, 3.9, 0.0], [0.0, 0.0, 0.0, 0.1]]
    only_blend = fused(scores, [True, False, False, False], 1, weights=(1.0, 0.01))
    assert only_blend == [1]
    assert 3 in fused(scores, [True, False, False, False], 1, weights=(1.0, 0.01), quotas=(0, 1))


def test_as_many_as_exist_and_then_padding() -> None:
    scores = [[9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert sorted(fused(scores, [True, False, True, False], 3)) == [0, 1, 3]


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(BundleError, match="crystal_ball"):
        build_sources(
            SourceMix(names=("crystal_ball",), weights=(1.0,), quotas=(0,)),
            neighbour_index=torch.zeros(1, 1), neighbour_weight=torch.zeros(1, 1),
            popular_weights=torch.zeros(1),
        )  # fmt: skip
