"""What is timed is what is said: the models, their operations, the locks of the peers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.environments import torch_of, without_torch
from benchmarks.training.click_models import ClickModel, TwoTowers

_PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


def _model(num_crosses: int) -> ClickModel:
    torch.manual_seed(0)
    return ClickModel(
        (5, 7, 3), 4, num_dense=6, dense_layers=(8,), over_layers=(10, 6), num_crosses=num_crosses,
        cross_rank=5,
    )  # fmt: skip


def test_dcn_is_its_formula() -> None:
    model = _model(2)
    dense, index = torch.randn(9, 6), torch.randint(0, 3, (9, 3))
    start = torch.cat([model.dense(dense), model.tables(index).flatten(1)], dim=1)
    crossed = start
    for narrow, wide in zip(model.crosses.narrow, model.crosses.wide, strict=True):
        crossed = start * (crossed @ narrow.weight.T @ wide.weight.T + wide.bias) + crossed
    torch.testing.assert_close(model(dense, index), model.over(crossed).squeeze(1))


def test_dlrm_is_its_formula() -> None:
    model = _model(0)
    dense, index = torch.randn(9, 6), torch.randint(0, 3, (9, 3))
    bottom, tables = model.dense(dense), model.tables(index)
    vectors = [bottom, *tables.unbind(1)]
    products = [
        (vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i + 1, 4)
    ]  # fmt: skip
    wanted = model.over(torch.cat([bottom, torch.stack(products, 1)], 1)).squeeze(1)
    torch.testing.assert_close(model(dense, index), wanted)


def test_towers_are_their_formula() -> None:
    torch.manual_seed(0)
    model = TwoTowers((5, 7, 3, 4), 4, num_dense=6, dense_layers=(8,))
    dense, index = torch.randn(9, 6), torch.randint(0, 3, (9, 4))
    tables = model.tables(index)
    user = model.user(torch.cat([dense, tables[:, 0], tables[:, 1]], 1))
    item = model.item(torch.cat([tables[:, 2], tables[:, 3]], 1))
    assert user.shape == (9, 4)
    torch.testing.assert_close(model(dense, index), torch.einsum("bd,bd->b", user, item))


def test_the_counter_counts_the_operations_of_a_dcn_step() -> None:
    model, size = _model(2), 9
    dense, index = torch.randn(size, 6), torch.randint(0, 3, (size, 3))
    with FlopCounterMode(display=False) as counter:
        F.binary_cross_entropy_with_logits(model(dense, index), torch.ones(size)).backward()
    linear = [6 * 8, 8 * 4, *[16 * 5, 5 * 16] * 2, 16 * 10, 10 * 6, 6 * 1]
    # Two operations a weight forward, four backward; the first layer's input has no gradient.
    assert counter.get_total_flops() == size * (6 * sum(linear) - 2 * linear[0])


@pytest.mark.parametrize("peer", ["recbole", "torchrec", "torchrec_cuda", "ray_serve", "bentoml"])
def test_locks_of_peers_are_whole_and_hold_the_torch_we_have(peer: str) -> None:
    lock = (_PEERS / peer / "requirements.txt").read_text()
    assert torch_of(lock) == "torch==" + torch.__version__.split("+")[0]
    rest = without_torch(lock)
    assert "nvidia-" not in rest and "\ntorch==" not in rest and "numpy==" in rest
    pins = [line for line in lock.splitlines() if line[:1].isalnum()]
    assert lock.count("--hash=sha256:") >= len(pins)
