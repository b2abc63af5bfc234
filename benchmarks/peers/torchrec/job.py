"""DLRM, DCN and two towers of TorchRec, timed in an environment of its own (``requirements.txt``).

Usage::

    python job.py '{"data": "batches.npz", "shape": {...}, "model": "dcn", "tables": "fused", ...}'

Reads ``{"steps": n}`` from standard input, trains so many steps and answers with a line of JSON;
``benchmarks/training/turns.py`` is the other end. Models are TorchRec's own ``DLRM_DCN`` and
``DLRM`` in its ``DLRMTrain``, and towers from its ``MLP`` as its retrieval example has them, on as
many tables as there are and with a linear last layer (with the example's ReLU no logit could be
below 0). Two ways to keep the tables, both its own:

* ``fused``: ``FusedEmbeddingBagCollection``, whose backward pass updates the looked-up rows by
  row-wise Adagrad (FBGEMM's table-batched kernels), as its documentation recommends for training;
* ``plain``: ``EmbeddingBagCollection`` with a ``RowWiseAdagrad`` run in the backward pass
  (``apply_optimizer_in_backward``).

Dense weights are trained by fused AdamW in both. Batches are made before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings

protocol = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever libraries print must not be taken for answers
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchrec  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.optim import _apply_optimizer_in_backward  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from torchrec.datasets.utils import Batch  # noqa: E402
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRMTrain  # noqa: E402
from torchrec.modules.embedding_configs import EmbeddingBagConfig  # noqa: E402
from torchrec.modules.embedding_modules import EmbeddingBagCollection  # noqa: E402
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection  # noqa: E402
from torchrec.modules.mlp import MLP  # noqa: E402
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad  # noqa: E402
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor  # noqa: E402


def main() -> None:
    """Build, say so, and train as often as asked."""
    asked = json.loads(sys.argv[1])
    shape, device = asked["shape"], torch.device(asked["device"])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(asked["seed"])
    if asked["dtype"] == "float32" and device.type == "cuda":
        torch.set_float32_matmul_precision(asked["float32_matmul"])
    keys = [f"c{i}" for i in range(len(shape["rows"]))]
    tables = _tables(asked, keys, device)
    table_parameters = {id(p) for p in tables.parameters()}
    if asked["model"] == "towers":
        model = TwoTowerTrain(tables, shape, device).to(device)
    else:
        model = DLRMTrain(_dlrm(asked, tables, device)).to(device)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if id(p) not in table_parameters],
        lr=asked["dense_learning_rate"],
        fused=True,
    )
    batches = _batches(asked["data"], keys, device)

    clicks = torch.Generator(device).manual_seed(asked["seed"])

    def step(batch: Batch) -> torch.Tensor:
        # ``labels`` holds chances: clicks are drawn anew at each pass (benchmarks/training/
        # click_data.py says why).
        batch = Batch(
            dense_features=batch.dense_features,
            sparse_features=batch.sparse_features,
            labels=torch.bernoulli(batch.labels, generator=clicks),
        )
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=asked["dtype"] == "bfloat16"
        ):
            loss, _ = model(batch)
        loss.backward()
        optimiser.step()
        return loss.detach()

    model.train()
    with FlopCounterMode(display=False) as counter:
        step(batches[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _serve(asked, step, batches, counter.get_total_flops(), device)


class TwoTowerTrain(nn.Module):
    """Two towers and their loss; the first half of the tables and the numbers are the user's."""

    def __init__(self, tables: nn.Module, shape: dict, device: torch.device) -> None:
        super().__init__()
        size, count = shape["embedding_size"], len(shape["rows"])
        self.tables = tables
        self.width = count // 2 * size
        self.user = _tower(shape["num_dense"] + self.width, shape, device)
        self.item = _tower((count - count // 2) * size, shape, device)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the loss and the logits."""
        pooled = self.tables(batch.sparse_features).values()
        user = self.user(torch.cat([batch.dense_features, pooled[:, : self.width]], dim=1))
        logits = (user * self.item(pooled[:, self.width :])).sum(dim=1)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.labels), logits


def _tower(in_size: int, shape: dict, device: torch.device) -> nn.Sequential:
    layers = shape["dense_layers"]
    return nn.Sequential(
        MLP(in_size, layers, device=device),
        nn.Linear(layers[-1], shape["embedding_size"], device=device),
    )


def _tables(asked: dict, keys: list[str], device: torch.device) -> nn.Module:
    shape = asked["shape"]
    tables = [
        EmbeddingBagConfig(
            name=f"t_{key}",
            embedding_dim=shape["embedding_size"],
            num_embeddings=rows,
            feature_names=[key],
        )
        for key, rows in zip(keys, shape["rows"], strict=True)
    ]
    settings = {"lr": asked["table_learning_rate"], "eps": 1e-8}
    if asked["tables"] == "fused":
        collection = FusedEmbeddingBagCollection(
            tables=tables,
            optimizer_type=RowWiseAdagrad,
            optimizer_kwargs=settings,
            device=device,
        )
    else:
        collection = EmbeddingBagCollection(tables=tables, device=device)
        _apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), settings)
    with torch.no_grad():
        for parameter in collection.parameters():
            parameter.uniform_(-0.05, 0.05)
    return collection


def _dlrm(asked: dict, collection: nn.Module, device: torch.device) -> DLRM:
    shape = asked["shape"]
    common = {
        "embedding_bag_collection": collection,
        "dense_in_features": shape["num_dense"],
        "dense_arch_layer_sizes": [*shape["dense_layers"], shape["embedding_size"]],
        "over_arch_layer_sizes": [*shape["over_layers"], 1],
        "dense_device": device,
    }
    if asked["model"] == "dlrm":
        return DLRM(**common)
    return DLRM_DCN(
        **common, dcn_num_layers=shape["num_crosses"], dcn_low_rank_dim=shape["cross_rank"]
    )


def _batches(path: str, keys: list[str], device: torch.device) -> list[Batch]:
    found = np.load(path)
    made = []
    for dense, index, chance in zip(found["dense"], found["index"], found["chance"], strict=True):
        values = torch.from_numpy(index).T.contiguous().reshape(-1)  # by feature, then by example
        made.append(
            Batch(
                dense_features=torch.from_numpy(dense),
                sparse_features=KeyedJaggedTensor.from_lengths_sync(
                    keys, values, torch.ones(len(values), dtype=torch.int32)
                ),
                labels=torch.from_numpy(chance),
            ).to(device)
        )
    return made


def _serve(asked: dict, step, batches: list[Batch], flops: int, device: torch.device) -> None:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    batch_size = len(batches[0].labels)
    _say({"flops_per_step": flops, "examples_per_step": batch_size,
          "versions": {"torch": torch.__version__, "torchrec": torchrec.__version__}})  # fmt: skip
    turn = 0
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        losses = []
        settle()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            losses.append(step(batches[turn % len(batches)]))
            turn += 1
        settle()
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        _say({
            "examples": steps * batch_size, "wall_s": wall_s, "cpu_s": cpu_s,
            "loss": float(torch.stack(losses).mean()), "peak_bytes": _peak(device),
        })  # fmt: skip


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(answer: dict) -> None:
    protocol.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
