"""Our own kernels as shares of the limits, measured beside them in the same process."""

from __future__ import annotations

import torch

from benchmarks.limits.arithmetic import best_seconds, memory_gb_s
from recsys.compression.item_vectors import Float32Vectors
from recsys.inference.threads import torch_threads
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource

_ITEMS, _SIZE, _K = 1_000_000, 64, 100


def exact_search(seconds: float, seed: int) -> dict[str, float]:
    """Give exact search of a million items, one thread, beside what it is made of.

    One user's search reads all vectors once, so its limit is reading memory; 32 users' is the
    matrix product. Ours, product and reading take turns; each is the best of its goes.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(_ITEMS + 1, _SIZE, generator=generator)
    vectors[0] = 0.0
    held, source = Float32Vectors(vectors), TwoTowerSource()
    unavailable, activity = torch.arange(len(vectors)) == 0, torch.zeros(len(vectors), 1)
    found: dict[str, float] = {}
    with torch_threads(1):
        for batch in (1, 32):
            users = torch.randn(batch, _SIZE, generator=generator)
            nobody = torch.zeros(batch, 0, dtype=torch.int64)
            given = SourceInputs(
                user={}, user_vectors=users, item_vectors=held, item_activity=activity
            )
            leaves = Excluded(unavailable, nobody, [])
            search_s = product_s = float("inf")
            read_gb_s = 0.0
            for _ in range(3):
                search_s = min(
                    search_s,
                    best_seconds(lambda g=given, e=leaves: source.search(g, _K, e), seconds),  # type: ignore[misc]
                )
                product_s = min(product_s, best_seconds(lambda u=users: u @ vectors.T, seconds))  # type: ignore[misc]
                read_gb_s = max(read_gb_s, memory_gb_s(seconds / 3)["read"])
            said = "one user" if batch == 1 else f"{batch} users"
            found[f"{said}, search ms"] = round(search_s * 1e3, 3)
            found[f"{said}, share of the matrix product's rate"] = round(product_s / search_s, 3)
            read_s = vectors.numel() * 4 / (read_gb_s * 1e9)
            found[f"{said}, share of the memory's rate"] = round(read_s / search_s, 3)
    return found
