"""Factorisation by ranking losses by LightFM, in an environment of its own.

Usage::

    python job.py FOLDER ALGORITHM SETTINGS SEED

FOLDER holds ``past.npz``: ``user`` and ``item`` of each pair, both from 0, and ``shape``. ALGORITHM
is a loss, ``warp`` or ``bpr``; SETTINGS is JSON of the constructor's arguments and ``epochs``.
Writes ``model.npz`` there: ``users [U, D]``, ``items [N, D]`` and ``item_bias [N]``. One thread.
Prints one JSON line: seconds of wall and of CPU of the fit alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse
from lightfm import LightFM


def main(folder: Path, algorithm: str, settings: dict[str, Any], seed: int) -> None:
    """Fit once."""
    past = np.load(folder / "past.npz")
    ones = np.ones(len(past["user"]), dtype=np.float32)
    matrix = sparse.coo_matrix((ones, (past["user"], past["item"])), shape=tuple(past["shape"]))
    epochs = settings.pop("epochs")
    model = LightFM(loss=algorithm, random_state=seed, **settings)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    model.fit(matrix, epochs=epochs, num_threads=1)
    took = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
    bias, items = model.get_item_representations()
    _, users = model.get_user_representations()
    np.savez(folder / "model.npz", users=users, items=items, item_bias=bias)
    sys.stdout.write(json.dumps(took) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
