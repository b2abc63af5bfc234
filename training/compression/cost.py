"""Bytes and time of bundles, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recsys.inference.compute import answer
from recsys.models.serving_model import ServingModel

_TURNS = 40


def weight_bytes(folder: Path) -> int:
    """Give the bytes of a bundle's tensors on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def request_us(
    models: Mapping[str, ServingModel], context: Mapping[str, Tensor], *, k: int,
    num_candidates: int, turns: int = _TURNS,
) -> dict[str, float]:  # fmt: skip
    """Give the median CPU microseconds of recommending to one user, one thread.

    ``context`` ``[B, ...]`` holds users; the models answer the same one in turn, so that a clock
    that moves moves for all.
    """
    num_users, threads = len(context["history_index"]), torch.get_num_threads()
    found: dict[str, list[float]] = {name: [] for name in models}
    torch.set_num_threads(1)
    try:
        for turn in range(turns + 3):
            row = slice(turn % num_users, turn % num_users + 1)
            inputs = {name: tensor[row] for name, tensor in context.items()} | {
                "exclude_index": torch.zeros(1, 1, dtype=torch.int32),
                "exclude_history": torch.zeros(1, 1, dtype=torch.bool),
                "k": torch.full((1, 1), k, dtype=torch.int32),
            }
            for name, model in models.items():
                begin = time.process_time()
                answer(model, inputs, num_candidates=num_candidates)
                if turn >= 3:  # the first ones warm up
                    found[name].append((time.process_time() - begin) * 1e6)
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in found.items()}
