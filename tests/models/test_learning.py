"""Losses by hand, and models small enough to learn by heart."""

from __future__ import annotations

import math

import torch

from recsys.models.config import RankerConfig, TwoTowerConfig
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.losses import (
    full_softmax,
    listwise_softmax,
    sampled_softmax,
    weighted_cross_entropy,
)
from recsys.models.normalise import Standardise, signed_log1p
from recsys.models.ranker import Ranker
from recsys.models.serving_model import Candidates
from recsys.models.signature import Dimensions
from recsys.models.two_tower import TwoTower, _weighted_sums

N, H = 12, 4
DIMENSIONS = Dimensions(
    history_length=H, num_tokens=2, num_user_features=3, num_categories=2,
    num_category_features=1, num_item_features=2, objectives=("buy",), sources=("popular",),
)  # fmt: skip


def table() -> ItemTable:
    return ItemTable(
        ItemStatics(
            category=torch.arange(N + 1) % 2,
            price=torch.arange(N + 1).float(),
            text=(torch.arange(N + 1).unsqueeze(1) % 5 + 1).repeat(1, 3),
            has_id=torch.arange(N + 1) > 0,
        )
    )


def contexts(size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(1, N + 1, (size, H), generator=generator).int()
    return {
        "history_index": index,
        "history_count": torch.ones(size, H),
        "history_age_s": torch.full((size, H), 86_400.0),
        "user_tokens": torch.arange(size * 2).reshape(size, 2) + 1,
        "user_dense": torch.randn(size, 3, generator=generator),
        "user_category": torch.ones(size, 2, 1),
    }


def test_full_softmax_by_hand() -> None:
    logits = torch.tensor([[-1e9, 1.0, 2.0]])
    loss = full_softmax(logits, torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.0]]))
    assert math.isclose(loss.item(), math.log(1 + math.exp(-1)), rel_tol=1e-6)


def test_sampled_softmax_over_the_whole_catalogue_once_is_the_full_one() -> None:
    logits = torch.tensor([[0.3, -0.2, 1.1]])
    loss = sampled_softmax(
        positive_logit=logits[:, :1], pool_logit=logits, pool_log_q=torch.zeros(3),
        own_positive=torch.tensor([[True, False, False]]), weight=torch.ones(1, 1),
    )  # fmt: skip
    assert torch.isclose(loss, -logits.log_softmax(1)[0, 0])


def test_an_item_drawn_twice_as_often_counts_half_each_time() -> None:
    pool = torch.tensor([[0.5, 0.5, -1.0]])
    twice = sampled_softmax(
        positive_logit=torch.zeros(1, 1), pool_logit=pool,
        pool_log_q=torch.tensor([2.0, 2.0, 1.0]).log(),
        own_positive=torch.zeros(1, 3, dtype=torch.bool), weight=torch.ones(1, 1),
    )  # fmt: skip
    once = sampled_softmax(
        positive_logit=torch.zeros(1, 1), pool_logit=pool[:, 1:], pool_log_q=torch.zeros(2),
        own_positive=torch.zeros(1, 2, dtype=torch.bool), weight=torch.ones(1, 1),
    )  # fmt: skip
    assert torch.isclose(twice, once)


def test_lists_without_a_positive_do_not_count() -> None:
    logits, mask = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.ones(2, 2, dtype=torch.bool)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = listwise_softmax(logits, labels, mask, torch.zeros(2, 2))
    assert torch.isclose(loss, -logits[0].log_softmax(0)[0])


def test_cross_entropy_weights_rows() -> None:
    loss = weighted_cross_entropy(
        torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
    )
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_standardise_silences_a_column_that_never_moved() -> None:
    scale = Standardise(2)
    scale.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    out = scale(torch.tensor([[1.0, 900.0], [3.0, 5.0]]))
    assert out[:, 1].tolist() == [0.0, 0.0]
    assert torch.isclose(out[:, 0].mean(), torch.tensor(0.0), atol=1e-6)
    assert math.isclose(signed_log1p(torch.tensor(-1.0)).item(), -math.log(2), rel_tol=1e-6)


def test_both_ways_to_pool_a_history_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, 3, generator=generator)
    weights = torch.rand(20, 2, 2, generator=generator)
    index = torch.randint(0, 4, (20, 2), generator=generator)
    dense = _weighted_sums(weights, index, vectors)  # 40 entries over 4 items: the dense way
    rows = torch.cat(
        [_weighted_sums(weights[b : b + 1], index[b : b + 1], vectors) for b in range(20)]
    )
    torch.testing.assert_close(dense, rows)


def test_an_empty_history_gives_a_finite_vector() -> None:
    towers = TwoTower(TwoTowerConfig(embedding_size=8), DIMENSIONS, table()).eval()
    user = contexts(2)
    user["history_index"] = torch.zeros(2, H, dtype=torch.int32)
    vectors, items = towers(user)
    assert torch.isfinite(vectors).all() and (items[0] == 0).all()


def test_towers_learn_eight_users_by_heart() -> None:
    torch.manual_seed(0)
    config = TwoTowerConfig(embedding_size=16, id_dropout=0.0, dropout=0.0)
    towers, user, wanted = TwoTower(config, DIMENSIONS, table()), contexts(8), torch.arange(1, 9)
    optimiser = torch.optim.Adam(towers.parameters(), lr=0.02)
    for _ in range(150):
        users, items = towers(user)
        logits = (users @ items.T / config.temperature).index_fill(1, torch.tensor([0]), -1e9)
        loss = full_softmax(logits, wanted.unsqueeze(1), torch.ones(8, 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    users, items = towers.eval()(user)
    assert (users @ items[1:].T).argmax(1).add(1).tolist() == wanted.tolist()


def test_ranker_learns_eight_lists_by_heart() -> None:
    torch.manual_seed(0)
    ranker = Ranker(RankerConfig(hidden_size=32), DIMENSIONS, table(), embedding_size=8)
    user, wanted = contexts(8), torch.arange(8)
    candidates = Candidates(torch.arange(1, N + 1).int().repeat(8, 1), torch.randn(8, N, 1))
    labels = torch.nn.functional.one_hot(wanted, N).float()
    inputs = (user, torch.randn(8, 8), torch.randn(N + 1, 8), torch.rand(N + 1, 2), candidates)
    optimiser = torch.optim.Adam(ranker.parameters(), lr=0.01)
    for _ in range(200):
        order = ranker(*inputs).order[:, :, 0]
        loss = listwise_softmax(order, labels, labels >= 0, torch.zeros(8, N))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ranker(*inputs).order[:, :, 0].argmax(1).tolist() == wanted.tolist()


def test_the_probability_never_moves_the_order() -> None:
    ranker = Ranker(RankerConfig(hidden_size=8), DIMENSIONS, table(), embedding_size=8)
    candidates = Candidates(torch.ones(2, 3, dtype=torch.int32), torch.randn(2, 3, 1))
    output = ranker(
        contexts(2), torch.randn(2, 8), torch.randn(N + 1, 8), torch.rand(N + 1, 2), candidates
    )
    output.probability.sum().backward()
    assert ranker.output.weight.grad is None or not ranker.output.weight.grad.any()
    assert ranker.calibrate_slope.grad is not None and ranker.calibrate_slope.grad.any()
