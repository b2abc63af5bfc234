"""Our side of the click models: which model, which batches, which loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.training.click_models import ClickModel, TwoTowers
from benchmarks.training.own_trainer import Batch, Task


def make(asked: dict[str, Any], device: torch.device) -> Task:
    """Build ``asked["model"]`` in ``asked["shape"]`` over the batches of ``asked["data"]``."""
    shape = asked["shape"]
    model = click_model(asked["model"], shape)
    found = np.load(asked["data"])
    batches: list[Batch] = [
        tuple(torch.from_numpy(part).to(device) for part in parts)
        for parts in zip(found["dense"], found["index"], found["chance"], strict=True)
    ]
    clicks = torch.Generator(device).manual_seed(asked["seed"])

    def renew(batch: Batch) -> Batch:
        dense, index, chance = batch
        return dense, index, torch.bernoulli(chance, generator=clicks)

    def loss(batch: Batch) -> Tensor:
        dense, index, label = batch
        return F.binary_cross_entropy_with_logits(model(dense, index), label)

    return Task(
        module=model, loss=loss, batches=batches, examples=[len(b[2]) for b in batches],
        learning_rate=asked["dense_learning_rate"], renew=renew,
        more={"bytes_per_step": table_bytes(found["index"][0], shape, asked["dtype"])},
    )  # fmt: skip


def click_model(name: str, shape: dict[str, Any]) -> ClickModel | TwoTowers:
    """Give ``dcn``, ``dlrm`` or ``towers`` in a shape."""
    if name == "towers":
        return TwoTowers(
            shape["rows"],
            shape["embedding_size"],
            num_dense=shape["num_dense"],
            dense_layers=shape["dense_layers"],
        )
    return ClickModel(
        shape["rows"],
        shape["embedding_size"],
        num_dense=shape["num_dense"],
        dense_layers=shape["dense_layers"],
        over_layers=shape["over_layers"],
        num_crosses=shape["num_crosses"] if name == "dcn" else 0,
        cross_rank=shape["cross_rank"],
    )


def table_bytes(index: NDArray[np.int64], shape: dict[str, Any], dtype: str) -> int:
    """Count the bytes that a step on the tables must move at the least, caches or not.

    Each lookup of ``index`` ``[B, F]`` is a row read and an output written, and in the backward
    pass an output gradient read; each different row then has its weights and its one number of
    state read and written once.
    """
    size, of_output = shape["embedding_size"], 2 if dtype == "bfloat16" else 4
    lookups = index.size * (8 + size * (4 + of_output + of_output))
    different = sum(len(np.unique(column)) for column in index.T)
    return int(lookups + different * 2 * (size * 4 + 4))
