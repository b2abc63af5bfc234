"""Fits of implicit and LightFM in their environments, and the scores of what they fitted.

Axes: ``b`` users of a chunk, ``H`` history, ``N`` items (column 0 is padding), ``M`` neighbours.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ServerError
from recsys.evaluation.full_ranking import Scores
from recsys.features.batch import Int64s, Ragged
from training.leave_one_out.scorers import padded

JOBS = Path(__file__).parent.parent / "peers"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One algorithm of a peer, and the settings to choose among."""

    environment: str
    name: str
    choices: Mapping[str, tuple[float, ...]]

    def settings(self) -> Iterable[dict[str, float]]:
        """Give every combination."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))


ALGORITHMS = {
    "implicit ALS": Algorithm(
        environment="implicit",
        name="als",
        choices={"factors": (64, 128), "regularization": (0.01, 0.1), "alpha": (1.0, 10.0)},
    ),
    "implicit BPR": Algorithm(
        environment="implicit",
        name="bpr",
        choices={"factors": (64, 128), "learning_rate": (0.01, 0.05), "iterations": (100,)},
    ),
    "implicit cosine": Algorithm(environment="implicit", name="cosine", choices={"K": (20, 200)}),
    "implicit BM25": Algorithm(
        environment="implicit",
        name="bm25",
        choices={"K": (20, 200), "K1": (1.2,), "B": (0.2, 0.75)},
    ),
    "LightFM WARP": Algorithm(
        environment="lightfm",
        name="warp",
        choices={"no_components": (64, 128), "learning_rate": (0.05,), "epochs": (30, 60)},
    ),
    "LightFM BPR": Algorithm(
        environment="lightfm",
        name="bpr",
        choices={"no_components": (64, 128), "learning_rate": (0.05,), "epochs": (30, 60)},
    ),
}


def write_pairs(folder: Path, past: Ragged, num_items: int) -> None:
    """Write the distinct pairs of user and item, both from 0."""
    user = np.repeat(np.arange(len(past)), np.diff(past.offsets))
    pairs = np.unique(user * num_items + past.values - 1)
    np.savez(
        folder / "past.npz",
        user=pairs // num_items, item=pairs % num_items, shape=[len(past), num_items],
    )  # fmt: skip


def fit_peer(
    python: Path, algorithm: Algorithm, settings: Mapping[str, float], folder: Path, seed: int
) -> float:
    """Fit once; gives seconds of CPU. Raises ServerError when the job fails."""
    job = JOBS / algorithm.environment / "job.py"
    done = subprocess.run(
        [str(python), str(job), str(folder), algorithm.name, json.dumps(settings), str(seed)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ServerError(
            f"wanted a fit of {algorithm.environment} {algorithm.name}, found: "
            f"{done.stderr.strip()[-500:]}"
        )
    return float(json.loads(done.stdout.splitlines()[-1])["cpu_s"])


def peer_scores(folder: Path, histories: Ragged, num_items: int) -> Scores:
    """Give the scores of the model in ``folder``, of the users in their order."""
    with np.load(folder / "model.npz") as file:
        model = {name: torch.from_numpy(file[name]) for name in file.files}
    if "users" in model:
        users, items = model["users"], model["items"]
        bias = model.get("item_bias", torch.zeros(len(items)))
        return lambda rows: _behind_padding(users[torch.from_numpy(rows)] @ items.T + bias)
    index, weight = model["index"], model["weight"]

    def summed(rows: Int64s) -> Tensor:
        history = padded(histories, rows, int(np.diff(histories.offsets).max(initial=1)))
        values = weight[history - 1] * (history != 0).unsqueeze(2)
        out = torch.zeros(len(rows), num_items)
        out.scatter_add_(1, index[history - 1].flatten(1), values.flatten(1))
        return _behind_padding(out)

    return summed


def _behind_padding(scores: Tensor) -> Tensor:
    """Put the column of row 0, which is no item, before the scores of items."""
    return torch.nn.functional.pad(scores, (1, 0))
