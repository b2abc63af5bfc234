"""Matrix products a second and bytes of memory a second, of one thread and of all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

SHAPES: dict[str, tuple[int, int, int]] = {
    "search, one user": (1, 64, 1_000_000),
    "search, 32 users": (32, 64, 1_000_000),
    "ranker, 500 candidates": (500, 256, 256),
    "tower, 32 users with 50 events": (1_600, 64, 256),
    "softmax over 12,101 items": (1_280, 64, 12_101),
    "square": (2_048, 2_048, 2_048),
}
"""[rows, inner] times [inner, columns], as our kernels have them."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BYTES = 512 * 2**20
"""Several times any cache of this kind of machine."""


def thread_counts() -> list[int]:
    """Give one, and all cores where there are more."""
    return sorted({1, len(os.sched_getaffinity(0))})


def products_gflops(seconds: float, seed: int) -> dict[str, float]:
    """Give 10^9 operations a second by type and shape, with torch's present threads.

    A multiplication and an addition are two. The best of all goes within ``seconds`` each.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for kind, dtype in TYPES.items():
        for said, (rows, inner, columns) in SHAPES.items():
            left = torch.randn(rows, inner, generator=generator).to(dtype)
            right = torch.randn(columns, inner, generator=generator).to(dtype).T
            took_s = best_seconds(lambda a=left, b=right: a @ b, seconds)  # type: ignore[misc]
            found[f"{kind}, {said}"] = round(2 * rows * inner * columns / took_s / 1e9, 2)
    return found


def memory_gb_s(seconds: float) -> dict[str, float]:
    """Give 10^9 bytes a second that are read, and that are read and written by a copy."""
    source = torch.ones(_BYTES // 4)
    target = torch.empty_like(source)
    return {
        "read": round(_BYTES / best_seconds(lambda: source.sum(), seconds) / 1e9, 2),
        "copy": round(2 * _BYTES / best_seconds(lambda: target.copy_(source), seconds) / 1e9, 2),
    }


def best_seconds(run: Callable[[], object], seconds: float) -> float:
    """Give the shortest time one go took, of at least five: a limit is what can be reached."""
    run()
    best, goes, end = float("inf"), 0, time.perf_counter() + seconds
    while goes < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
        goes += 1
    return best
