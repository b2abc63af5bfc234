"""When the ranker is left out: by what it took, and tried again by itself."""

from __future__ import annotations

import torch

from recsys.inference.compute import answer
from recsys.inference.rank_time import RankTime
from recsys.models.signature import RANK_FAILED, RANK_LATE, RANKED
from tests.inference.toy_model import ToyModel


def test_a_slow_ranker_is_left_out_and_tried_again() -> None:
    time = RankTime()
    assert time.fits(1, 0.010), "never measured"
    assert not time.fits(1, 0.0)
    for _ in range(50):
        time.took(1, 0.100)
    assert not time.fits(1, 0.120), "half of the times lie above the average"
    assert time.fits(1, 0.200)
    assert time.fits(8, 0.050), "another size of batch"
    refusals = 0
    while not time.fits(1, 0.080):
        refusals += 1
    assert 20 < refusals < 60, "then it is tried again"


def inputs(budget_ms: list[int]) -> dict[str, torch.Tensor]:
    n = len(budget_ms)
    return {
        "history_index": torch.full((n, 8), 3, dtype=torch.int32),
        "exclude_index": torch.zeros(n, 1, dtype=torch.int32),
        "exclude_history": torch.ones(n, 1, dtype=torch.bool),
        "k": torch.full((n, 1), 4, dtype=torch.int32),
        "budget_ms": torch.tensor(budget_ms, dtype=torch.int32).reshape(n, 1),
    }


def test_most_callers_of_a_batch_decide() -> None:
    model, time = ToyModel(), RankTime()
    for _ in range(20):
        time.took(3, 0.050)
    ranked = answer(model, inputs([10, 500, 400]), num_candidates=20, rank_time=time)
    assert ranked["rank_outcome"].tolist() == [[RANKED]] * 3
    retrieved = answer(model, inputs([10, 20, 400]), num_candidates=20, rank_time=time)
    assert retrieved["rank_outcome"].tolist() == [[RANK_LATE]] * 3
    order = model.retrieve(
        inputs([1, 1, 1]), num_candidates=4, exclude_index=torch.zeros(3, 1),
        exclude_history=torch.ones(3, 1, dtype=torch.bool),
    )  # fmt: skip
    assert torch.equal(retrieved["item_index"], order.item_index)
    assert (retrieved["score"].diff(dim=1) < 0).all()
    assert (retrieved["objective_score"] == 0).all()
    without = inputs([1, 1, 1])
    del without["budget_ms"]
    always = answer(model, without, num_candidates=20, rank_time=time)
    assert always["rank_outcome"].tolist() == [[RANKED]] * 3


def test_a_ranker_that_raises_is_said() -> None:
    class Fails(ToyModel):
        def rank(self, user, candidates):  # type: ignore[no-untyped-def]
            raise RuntimeError("no memory")

    found = answer(Fails(), inputs([500]), num_candidates=20, rank_time=RankTime())
    assert found["rank_outcome"].tolist() == [[RANK_FAILED]]
    assert (found["item_index"] != 0).all()
