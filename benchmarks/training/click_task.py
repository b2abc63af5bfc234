"""Our side of the click models: which model, which batches, which loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.training.click_models import ClickModel
from benchmarks.training.own_trainer import Batch, Task


def make(asked: dict[str, Any], device: torch.device) -> Task:
    """Build ``dcn`` or ``dlrm`` of ``asked["shape"]`` over the batches of ``asked["data"]``."""
    shape = asked["shape"]
    model = ClickModel(
        shape["rows"],
        shape["embedding_size"],
        num_dense=shape["num_dense"],
        dense_layers=shape["dense_layers"],
        over_layers=shape["over_layers"],
        num_crosses=shape["num_crosses"] if asked["model"] == "dcn" else 0,
        cross_rank=shape["cross_rank"],
    )
    found = np.load(asked["data"])
    batches: list[Batch] = [
        tuple(torch.from_numpy(part).to(device) for part in parts)
        for parts in zip(found["dense"], found["index"], found["label"], strict=True)
    ]

    def loss(batch: Batch) -> Tensor:
        dense, index, label = batch
        return F.binary_cross_entropy_with_logits(model(dense, index), label)

    return Task(
        module=model, loss=loss, batches=batches, examples=[len(b[2]) for b in batches],
        learning_rate=asked["dense_learning_rate"], more={},
    )  # fmt: skip
