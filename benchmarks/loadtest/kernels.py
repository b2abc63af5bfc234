"""The arithmetic one request contains: the bundle's own computation, called in a loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.inference.allocation import keep_freed_memory
from recsys.inference.compute import answer
from recsys.inference.threads import torch_threads
from recsys.models import signature
from recsys.models.signature import Dimensions

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_USERS = 256
"""In each timing of a batch size."""
_TORCH: dict[str, torch.dtype] = {
    "INT32": torch.int32, "INT64": torch.int64, "FP32": torch.float32, "BOOL": torch.bool,
}  # fmt: skip


def kernel_times(bundle: Path, *, threads: int = 1, rounds: int = 3) -> dict[str, float]:
    """Give CPU milliseconds a user by users in a call: retrieve, rank, the best ``k`` = 20.

    With one thread, and freed memory kept, as in the model server.
    """
    keep_freed_memory()
    with torch_threads(threads):
        model = load_serving_model(bundle)
        candidates = read_manifest(bundle).num_candidates
        times: dict[str, float] = {}
        for size in BATCHES:
            inputs = users(model.dimensions, model.num_items, size)
            answer(model, inputs, num_candidates=candidates)
            taken = []
            for _ in range(rounds):
                start = time.process_time()
                for _ in range(_USERS // size):
                    answer(model, inputs, num_candidates=candidates)
                taken.append((time.process_time() - start) / (_USERS // size * size))
            times[str(size)] = round(float(np.median(taken)) * 1e3, 4)
        return times


def kernel_ms_of_calls(kernel_ms: Mapping[str, float], calls: Mapping[float, float]) -> float:
    """Give CPU milliseconds a user had the kernels alone answered calls of these sizes.

    ``calls``: how many there were by users in each. Between two measured sizes the time of a call
    is drawn as a line.
    """
    sizes = sorted(map(int, kernel_ms))
    whole = [size * kernel_ms[str(size)] for size in sizes]
    users_ = sum(size * count for size, count in calls.items())
    spent = sum(count * float(np.interp(size, sizes, whole)) for size, count in calls.items())
    return spent / users_ if users_ else float("nan")


def users(dimensions: Dimensions, num_items: int, size: int, seed: int = 0) -> dict[str, Tensor]:
    """Give the tensors of ``recommend`` for made-up users with two thirds of a history.

    Without a budget: the arithmetic is never cut.
    """
    rng = np.random.default_rng(seed)
    inputs = {
        spec.name: torch.zeros(
            (size, *(1 if axis == -1 else axis for axis in spec.shape)), dtype=_TORCH[spec.dtype]
        )
        for spec in signature.recommend_inputs(dimensions)
        if spec.name != "budget_ms"
    }
    length = dimensions.history_length * 2 // 3
    rows = np.stack([rng.choice(num_items, length, replace=False) + 1 for _ in range(size)])
    inputs["history_index"][:, -length:] = torch.from_numpy(rows.astype(np.int32))
    inputs["history_count"][:, -length:] = 1.0
    inputs["history_age_s"][:, -length:] = torch.from_numpy(
        -np.sort(-rng.uniform(60.0, 2e6, (size, length)), axis=1).astype(np.float32)
    )
    dense = rng.poisson(3.0, (size, dimensions.num_user_features)).astype(np.float32)
    inputs["user_dense"] = torch.from_numpy(dense)
    inputs["user_category"] = torch.from_numpy(
        rng.poisson(1.0, inputs["user_category"].shape).astype(np.float32)
    )
    inputs["exclude_history"][:] = True
    inputs["k"][:] = 20
    return inputs
