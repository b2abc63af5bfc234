"""Contributions come out right where they are known, and always sum to the score."""

from __future__ import annotations

import pytest
import torch

from recsys.models.config import RankerConfig
from recsys.models.cross_features import cross_feature_names, num_cross_features
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.ranker import Ranker
from recsys.models.serving_model import Candidates
from recsys.models.signature import Dimensions
from recsys.replay.contributions import USER_VECTOR, Attributed, RankerInputs, attribute
from recsys.replay.recompute import replay
from recsys.wire import RecommendRequest
from tests.replay.past_answers import Past

NUM_ITEMS, SIZE = 30, 8
DIMENSIONS = Dimensions(
    history_length=6, num_tokens=3, num_user_features=4, num_categories=2,
    num_category_features=2, num_item_features=3, objectives=("click", "purchase"),
    sources=("two_tower", "popular"),
)  # fmt: skip
WEIGHTS = torch.tensor([1.0, 0.5])
NAMES = cross_feature_names(DIMENSIONS.sources, ("a", "b"), has_content=False, aspects=())


def make_ranker(seed: int = 0) -> Ranker:
    torch.manual_seed(seed)
    table = ItemTable(
        ItemStatics(
            category=torch.randint(0, 2, (NUM_ITEMS + 1,)),
            price=torch.rand(NUM_ITEMS + 1) * 20,
            text=torch.randint(1, 100, (NUM_ITEMS + 1, 3)),
            has_id=torch.ones(NUM_ITEMS + 1, dtype=torch.bool),
        )
    )
    return Ranker(RankerConfig(), DIMENSIONS, table, SIZE).eval()


def given() -> RankerInputs:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    index = torch.tensor([[3, 9, 27, 11]], dtype=torch.int32)
    return RankerInputs(
        user={
            "history_index": torch.tensor([[0, 0, 5, 9, 2, 7]], dtype=torch.int64),
            "history_count": random(1, 6) * 4,
            "history_age_s": random(1, 6) * 1e6,
            "user_tokens": torch.zeros(1, 3, dtype=torch.int64),
            "user_dense": random(1, 4) * 20,
            "user_category": random(1, 2, 2) * 10,
        },
        user_vectors=random(1, SIZE) - 0.5,
        item_vectors=random(NUM_ITEMS + 1, SIZE) - 0.5,
        item_activity=random(NUM_ITEMS + 1, 3) * 100,
        candidates=Candidates(index, random(1, 4, 2) * 2 - 1),
    )


def attributed(ranker: Ranker, inputs: RankerInputs) -> Attributed:
    return attribute(
        ranker, WEIGHTS, inputs, user_names=("u0", "u1", "u2", "u3"),
        item_names=("i0", "i1", "i2"), cross_names=NAMES,
    )  # fmt: skip


def test_cross_features_have_as_many_names_as_columns() -> None:
    assert len(NAMES) == num_cross_features(DIMENSIONS)


def test_of_a_linear_ranker_each_feature_contributes_weight_times_value() -> None:
    ranker = make_ranker()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.zero_()
        ranker.direct.weight[0, NAMES.index("source.two_tower")] = 2.0
        ranker.direct.weight[1, NAMES.index("price.above_usual")] = -3.0
    inputs = given()
    found = attributed(ranker, inputs)
    source = inputs.candidates.source_score[0, :, 0]
    prices = found.value[:, found.names.index("price.above_usual")]
    wanted = torch.zeros_like(found.contribution)
    wanted[:, found.names.index("source.two_tower")] = 2.0 * source
    wanted[:, found.names.index("price.above_usual")] = 0.5 * -3.0 * prices
    torch.testing.assert_close(found.contribution, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.base, torch.zeros(4))
    torch.testing.assert_close(found.score, wanted.sum(1), atol=1e-5, rtol=1e-5)
    assert found.names[-1] == USER_VECTOR


def test_of_a_trained_ranker_contributions_sum_to_the_score_above_the_base() -> None:
    ranker, inputs = make_ranker(), given()
    index = torch.arange(1, NUM_ITEMS + 1, dtype=torch.int32).unsqueeze(0)
    everything = Candidates(index, torch.rand(1, NUM_ITEMS, 2) * 2 - 1)
    target = inputs.item_activity[1:, 0].log1p() - everything.source_score[0, :, 1]
    ranker.cross_scale.fit(ranker.cross_features(inputs.user, everything, inputs.item_activity))
    ranker.item_dense.fit(inputs.item_activity)
    optimiser = torch.optim.Adam(ranker.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        output = ranker(
            inputs.user, inputs.user_vectors, inputs.item_vectors, inputs.item_activity, everything
        )
        loss = ((output.order @ WEIGHTS)[0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0], "it has learned something"
    found = attributed(ranker, inputs)
    distance = (found.score - found.base).abs()
    assert float(distance.min()) > 1e-2, "there is something to attribute"
    assert bool((found.unexplained.abs() <= 0.01 * distance.clamp(min=0.1)).all())
    # What it learned from is what it says it learned from.
    share = found.contribution.abs().mean(0)
    told = {found.names[n] for n in share.argsort(descending=True)[:4].tolist()}
    assert "item.i0" in told


def test_past_answers_are_explained(past: Past) -> None:
    [exposure] = past.answer(RecommendRequest(user_id="ann", k=20))
    found = replay(past.settings, exposure, with_contributions=True)
    for item in found.items:
        assert item.base is not None
        assert item.logged_score is not None
        assert 0 < len(item.contributions) <= 10
        sizes = [abs(one.contribution) for one in item.contributions]
        assert sizes == sorted(sizes, reverse=True)
        total = item.base + sum(one.contribution for one in item.contributions)
        total += item.other_contributions + item.unexplained
        assert total == pytest.approx(item.logged_score, abs=1e-4)
        assert abs(item.unexplained) < 0.02 * abs(item.logged_score - item.base)
