"""Row-wise Adagrad: the definition, whatever way the gradients come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.engine import Engine
from training.optimisers import Optimisers
from training.row_wise_adagrad import RowWiseAdagrad, _sums_without_waiting, sums_by_row

LOOKED_UP = torch.tensor([[3, 1, 3], [0, 3, 7]])


def _by_definition(weight: Tensor, gradients: list[Tensor], lr: float, eps: float) -> Tensor:
    weight, squares = weight.clone(), torch.zeros(len(weight))
    for gradient in gradients:
        for row in range(len(weight)):
            squares[row] += (gradient[row] ** 2).mean()
            weight[row] -= lr * gradient[row] / (squares[row].sqrt() + eps)
    return weight


def _train(*, sparse: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    table = nn.Embedding(9, 4, sparse=sparse)
    before, gradients = table.weight.detach().clone(), []
    optimiser = RowWiseAdagrad(table.parameters(), lr=0.1)
    for step in range(3):
        optimiser.zero_grad()
        (table(LOOKED_UP) * torch.arange(24.0).view(2, 3, 4).sub(step)).sum().backward()
        assert table.weight.grad is not None
        gradients.append(table.weight.grad.to_dense().clone())
        optimiser.step()
    return before, table.weight.detach(), gradients


def test_sparse_gradients_give_what_the_definition_says() -> None:
    before, after, gradients = _train(sparse=True)
    torch.testing.assert_close(after, _by_definition(before, gradients, 0.1, 1e-8))


def test_dense_gradients_give_the_same() -> None:
    torch.testing.assert_close(_train(sparse=False)[1], _train(sparse=True)[1])


def test_rows_that_were_not_looked_up_stay_to_the_bit() -> None:
    before, after, _ = _train(sparse=True)
    untouched = [row for row in range(9) if row not in LOOKED_UP.unique().tolist()]
    assert torch.equal(before[untouched], after[untouched])
    assert not torch.equal(before[3], after[3])


def test_sums_of_fixed_length_are_those_of_the_rows() -> None:
    rows, values = LOOKED_UP.flatten(), torch.arange(24.0).view(6, 4)
    gradient = torch.sparse_coo_tensor(rows[None], values, (9, 4), check_invariants=True)
    ordered, place = rows.sort(stable=True)
    for found, sums in (sums_by_row(gradient), _sums_without_waiting(ordered, place, values)):
        total = torch.zeros(9, 4).index_add_(0, found, sums)
        assert torch.equal(total, gradient.to_dense())
    found, sums = _sums_without_waiting(ordered, place, values)
    assert len(found) == len(rows)
    assert torch.equal(sums[4:], torch.zeros(2, 4))


def test_a_step_without_lookups_changes_nothing() -> None:
    table = nn.Embedding(9, 4, sparse=True)
    before = table.weight.detach().clone()
    optimiser = RowWiseAdagrad(table.parameters())
    table(torch.zeros(0, dtype=torch.int64)).sum().backward()
    optimiser.step()
    assert torch.equal(before, table.weight)


def test_the_engine_gives_looked_up_tables_their_own_optimiser_and_rate() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 1))
    engine = Engine(
        sparse_tables=True, table_optimiser="row_wise_adagrad", table_learning_rate=0.25
    )
    optimisers = Optimisers(
        module, engine, learning_rate=0.01, weight_decay=0.0, num_steps=10
    )  # fmt: skip
    dense, tables = optimisers.all
    assert isinstance(tables, RowWiseAdagrad)
    assert tables.param_groups[0]["params"] == [module[0].weight]
    assert (dense.param_groups[0]["max_lr"], tables.param_groups[0]["max_lr"]) == (0.01, 0.25)
    before = module[0].weight.detach().clone()
    module(LOOKED_UP).sum().backward()
    optimisers.step()
    assert not torch.equal(before[3], module[0].weight[3])
    assert torch.equal(before[5], module[0].weight[5])
