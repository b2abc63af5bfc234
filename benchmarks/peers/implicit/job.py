"""Matrix factorisation and item neighbours by implicit, in an environment of its own.

Usage::

    python job.py FOLDER ALGORITHM SETTINGS SEED

FOLDER holds ``past.npz``: ``user`` and ``item`` of each pair, both from 0, and ``shape``. ALGORITHM
is ``als``, ``bpr``, ``cosine`` or ``bm25``; SETTINGS is JSON of its constructor's arguments. Writes
``model.npz`` there: ``users [U, D]`` and ``items [N, D]``, or ``index [N, M]`` and
``weight [N, M]`` of each item's neighbours. One thread, and one of OpenBLAS, as implicit asks for.
Prints one JSON line: seconds of wall and of CPU of the fit alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import implicit
import numpy as np
import scipy.sparse as sparse


def main(folder: Path, algorithm: str, settings: dict[str, Any], seed: int) -> None:
    """Fit once."""
    past = np.load(folder / "past.npz")
    ones = np.ones(len(past["user"]), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (past["user"], past["item"])), shape=tuple(past["shape"]))
    made: dict[str, Any] = {
        "als": implicit.als.AlternatingLeastSquares,
        "bpr": implicit.bpr.BayesianPersonalizedRanking,
        "cosine": implicit.nearest_neighbours.CosineRecommender,
        "bm25": implicit.nearest_neighbours.BM25Recommender,
    }
    if algorithm in ("als", "bpr"):
        settings |= {"random_state": seed, "use_gpu": False}
    model = made[algorithm](**settings, num_threads=1)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    model.fit(matrix, show_progress=False)
    took = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
    if algorithm in ("als", "bpr"):
        np.savez(folder / "model.npz", users=model.user_factors, items=model.item_factors)
    else:
        np.savez(folder / "model.npz", **neighbours(model.similarity.tocsr()))
    sys.stdout.write(json.dumps(took) + "\n")


def neighbours(similarity: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Give the rows of a sparse matrix as two dense ones; weights of 0 pad."""
    lengths = np.diff(similarity.indptr)
    place = np.arange(similarity.nnz) - np.repeat(similarity.indptr[:-1], lengths)
    row = np.repeat(np.arange(similarity.shape[0]), lengths)
    index = np.zeros((similarity.shape[0], int(lengths.max(initial=1))), dtype=np.int64)
    weight = np.zeros(index.shape, dtype=np.float32)
    index[row, place], weight[row, place] = similarity.indices, similarity.data
    return {"index": index, "weight": weight}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
