"""``python -m benchmarks.retrieval.search``: searching a large catalogue, ours and others' ways.

In turn in one process: the plain matrix product, the exact search that needs it, the same in
bfloat16 and int8 with the best scored anew, searches with 99 % of items filtered out, and the
approximate index, which is set to find .99 of the ``--k`` best for users beside the mean of what
they had and for users who had items drawn evenly, beside the same set on the first alone; the first
are timed. Users alone and 32 in a call, one thread. ``--peers``
builds and times hnswlib, usearch, ScaNN and other indexes of faiss on the same vectors as well
(``peers.py``): half an hour of building at a million items, which ``--folder`` keeps; ``--engines``
names some of them, and ours is always among them.
Vectors are made up (``vectors.py``). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.features.interleaved import ratio
from benchmarks.peers.surroundings import surroundings
from benchmarks.retrieval.peers import OTHERS, OURS, beside_ours
from benchmarks.retrieval.vectors import make_vectors, scattered_users
from recsys.compression.item_vectors import Float32Vectors, Int8Vectors
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import IndexConfig, build_index, set_index
from recsys.retrieval.index_recall import UserKind
from recsys.retrieval.item_filter import Passing
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource
from recsys.retrieval.vector_index import VectorIndex

K = 100


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.retrieval.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=["mixture", "gaussian"], default="mixture")
    parser.add_argument("--k", type=int, default=K, help="wanted of each search")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-index", action="store_true", help="exact searches alone")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--peers-only", action="store_true", help="nothing but --peers")
    parser.add_argument("--peer-rounds", type=int, default=9, help="passes over all users, each")
    parser.add_argument("--folder", type=Path, help="keeps what --peers builds; default: nowhere")
    parser.add_argument("--engines", default=",".join((*OURS[1:], *OTHERS)), help="of --peers")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.engines.split(",")) - {*OURS, *OTHERS}):
        parser.error(f"--engines: wanted some of {', '.join((*OURS, *OTHERS))}, found {unknown}")
    torch.set_num_threads(1)
    items, users = make_vectors(args.kind, num_items=args.items, num_users=1_500, seed=args.seed)
    result = {} if args.peers_only else _measure(items, users, args)
    if args.peers or args.peers_only:
        what = {"items": args.items, "kind": args.kind, "seed": args.seed}
        result |= what | beside_ours(
            items, users, args.engines.split(","),
            what=what, folder=args.folder, rounds=args.peer_rounds, seed=args.seed,
        )  # fmt: skip
        result |= surroundings()
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _measure(items: np.ndarray, users: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    vectors = torch.from_numpy(np.concatenate([np.zeros_like(items[:1]), items]))
    tuning, asking = torch.from_numpy(users[:500]), torch.from_numpy(users[500:])
    size = len(vectors)
    unavailable = torch.arange(size) == 0
    held, eighth = Float32Vectors(vectors), Int8Vectors.encode(vectors)
    rng = np.random.default_rng(args.seed)
    narrow = torch.from_numpy(rng.random(size) >= 0.01)
    narrow[0] = True
    filters = {"": None, "filtered 99 %": Passing(narrow)}
    result: dict[str, Any] = {
        "items": args.items, "kind": args.kind, "k": args.k, "seed": args.seed,
        "torch": torch.__version__,
    }  # fmt: skip
    indexes = {} if args.no_index else _indexes(vectors, items, tuning, args, result)
    for batch in (1, 32):
        blocks = [asking[at : at + batch] for at in range(0, len(asking) - batch, batch)]
        ways: dict[str, Callable[[Tensor], object]] = {
            "product": lambda q: q @ vectors.T,
            "product bfloat16": _low(vectors.bfloat16()),
            "product int8": eighth.scores,
        }
        sources = {"exact": TwoTowerSource()}
        sources |= {name: TwoTowerSource(index) for name, index in indexes.items()}
        for name, source in sources.items():
            for said, passing in filters.items():
                ways[f"{name} {said}".strip()] = _search(
                    source, held, unavailable, passing, batch, args.k
                )
        ways["exact by bfloat16"] = _rescored(vectors, _low(vectors.bfloat16()), args.k)
        ways["exact by int8"] = _rescored(vectors, eighth.scores, args.k)
        truth = [_rows(ways["exact"](block)) for block in blocks[:20]]
        for name, way in ways.items():
            if name.startswith("product"):
                continue
            found = [_rows(way(block)) for block in blocks[:20]]
            if "filtered" in name:
                assert all(bool((rows != 0).all()) for rows in found), "k exist and were wanted"
                continue
            shares = [_share(f, t) for f, t in zip(found, truth, strict=True)]
            result.setdefault("recall", {})[f"{name} x {batch}"] = sum(shares) / len(shares)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds):
            block = blocks[turn % len(blocks)]
            for name, way in ways.items():
                start = time.perf_counter()
                way(block)
                times[name].append(time.perf_counter() - start)
        result[f"ms_x_{batch}"] = {name: median(t) * 1e3 for name, t in times.items()}
        result.setdefault("exact_over_product", {})[str(batch)] = ratio(
            np.array(times["exact"]), np.array(times["product"]), seed=args.seed
        )
    return result


def _indexes(
    vectors: Tensor, items: np.ndarray, tuning: Tensor, args: argparse.Namespace,
    result: dict[str, Any],
) -> dict[str, VectorIndex]:  # fmt: skip
    """Give an index set on both kinds of users, and the same lists set on the gathered alone."""
    drawn = torch.from_numpy(scattered_users(items, num_users=len(tuning), seed=args.seed))
    gathered = UserKind(name="gathered", vectors=tuning)
    config = IndexConfig(k=args.k)
    start = time.perf_counter()
    both = build_index(vectors, [gathered, UserKind(name="scattered", vectors=drawn)], config)
    result["build_s"] = time.perf_counter() - start
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, vectors.shape[1])
    told = UserKind(name="scattered", vectors=drawn, is_held=False)
    one = set_index(both.index.folded(*nothing), vectors, [gathered, told], config)
    found = {"approximate": both, "approximate, gathered only": one}
    for name, built in found.items():
        result[name] = {
            "cells": built.index.num_cells, "probes": built.index.num_probes,
            "oversample": built.index.oversample,
            "found": {kind.name: kind.recall for kind in built.found},
        }  # fmt: skip
    return {name: built.index for name, built in found.items()}


def _search(
    source: TwoTowerSource, held: Float32Vectors, unavailable: Tensor, passing: Passing | None,
    batch: int, k: int,
) -> Callable[[Tensor], object]:  # fmt: skip
    nobody = torch.zeros(batch, 0, dtype=torch.int64)
    activity = torch.zeros(len(held), 1)

    def run(users: Tensor) -> object:
        given = SourceInputs(user={}, user_vectors=users, item_vectors=held, item_activity=activity)
        asked = [passing] * batch if passing is not None else []
        return source.search(given, k, Excluded(unavailable, nobody, asked)).item

    return run


def _low(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda users: users.to(vectors.dtype) @ vectors.T


def _rescored(
    vectors: Tensor, low: Callable[[Tensor], Tensor], k: int
) -> Callable[[Tensor], object]:
    """Search in a smaller type for four times as many, and score those anew."""

    def run(users: Tensor) -> object:
        rows = best(low(users), 4 * k)[1]
        score = torch.bmm(vectors[rows], users.unsqueeze(2)).squeeze(2)
        return rows.gather(1, score.topk(k, dim=1).indices)

    return run


def _rows(found: object) -> Tensor:
    assert isinstance(found, Tensor)
    return found


def _share(found: Tensor, truth: Tensor) -> float:
    return float((found.unsqueeze(2) == truth.unsqueeze(1)).any(dim=2).float().mean())


if __name__ == "__main__":
    sys.exit(main())
