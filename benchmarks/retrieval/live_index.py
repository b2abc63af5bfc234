"""``python -m benchmarks.retrieval.live_index``: what items beside an approximate index cost.

Made-up items and users (``vectors.py``), and an index as ``recsys bundle index`` builds it. Half of
``--beside`` items are given other vectors and as many are added. Timed: a search of one user
without them, with them beside the index, and with them folded in; and the fold. Each with its
recall@100 against an exact search. One thread; prints one JSON line, milliseconds, medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from benchmarks.retrieval.vectors import make_vectors
from recsys.compression.item_vectors import Float32Vectors
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.index_build import build_index
from recsys.retrieval.index_recall import UserKind
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource

_K = 100
_USERS, _SAMPLES = 500, 300


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.retrieval.live_index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--beside", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    made, asking = make_vectors(
        "mixture", num_items=args.items + args.beside, num_users=_USERS + _SAMPLES, seed=args.seed
    )
    items, users = torch.from_numpy(made), torch.from_numpy(asking)
    padded = torch.cat([torch.zeros(1, items.shape[1]), items[: args.items]])
    kinds = [UserKind(name="made up", vectors=users[_USERS:])]
    source = TwoTowerSource(build_index(padded, kinds).index)
    vectors = Float32Vectors(padded)
    vectors.make_room(args.beside)
    source.before_moving(vectors)
    found = {"without": _searched(source, vectors, users[:_USERS])}
    half = args.beside // 2
    rows = torch.cat([torch.arange(1, half + 1), args.items + torch.arange(1, half + 1)])
    vectors.put(rows, items[args.items : args.items + 2 * half])
    source.moved(rows)
    found["beside"] = _searched(source, vectors, users[:_USERS])
    live = source.index
    assert live is not None
    start_s = time.perf_counter()
    fold = live.fold(vectors)
    following = fold.run()
    fold_ms = (time.perf_counter() - start_s) * 1e3
    live.take(fold, following)
    found["folded"] = _searched(source, vectors, users[:_USERS])
    sys.stdout.write(json.dumps(vars(args) | found | {"fold_ms": round(fold_ms, 1)}) + "\n")
    return 0


def _searched(
    source: TwoTowerSource, vectors: Float32Vectors, users: torch.Tensor
) -> dict[str, float]:
    """Give the time of a search of one user, and the share of the true nearest that is found."""
    excluded = Excluded(torch.arange(len(vectors)) == 0, torch.zeros(1, 0, dtype=torch.int64))
    activity = torch.zeros(len(vectors), 1)
    times, hits = [], 0
    with torch.inference_mode():
        for user in users.split(1):
            inputs = SourceInputs(
                user={}, user_vectors=user, item_vectors=vectors, item_activity=activity
            )
            start_s = time.perf_counter()
            mine = source.search(inputs, _K, excluded).item[0]
            times.append((time.perf_counter() - start_s) * 1e3)
            truth = (user @ vectors.decoded()[1:].T)[0].topk(_K).indices + 1
            hits += int(torch.isin(mine, truth).sum())
    return {
        "search_ms": round(float(np.median(times)), 3),
        "recall": round(hits / (_K * len(users)), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
