"""``python -m benchmarks.training.collaborative``: implicit and LightFM beside our item neighbours.

Amazon Beauty's published split (``training/leave_one_out/protocol.py``): all competing items are
ranked, by one code for all. Each algorithm's settings are chosen on the users' second last events
(NDCG@10 of 5,000 users) among a few around its documentation's. The one chosen is fitted again on
all events but the last, since these models cannot read an event they were not fitted on, and judged
on the last, in turns with ours, which are fitted without the second last event, too, and read it.
``cpu_s`` is of that fit alone, on one thread. Without ``--data`` the file is looked for under
``RECSYS_DATA_DIR``. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.environments import python_of
from benchmarks.peers.registry import PEERS
from benchmarks.peers.surroundings import surroundings
from recsys.errors import RecsysError, ServerError
from recsys.evaluation.full_ranking import Scores
from recsys.features.batch import Int64s, Ragged
from recsys.settings import Settings
from training.leave_one_out.protocol import HeldOut, ndcg_at_10, quality_of
from training.leave_one_out.scorers import Neighbours, padded, popular_scores
from training.leave_one_out.sequences import Sequences, read_sequences
from training.report.protocol import rows_of

JOBS = Path(__file__).parent.parent / "peers"
DATA = Path("amazon_beauty") / "Beauty.txt"
_TUNING_USERS = 5_000
_SHRINKAGE = (5.0, 10.0, 20.0)
_DECAYS = (1.0, 0.8, 0.6)


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


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.collaborative",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="one user a line, `user item item ...`")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    options = parser.parse_args(argv)
    wanted = options.algorithms.split(",") if options.algorithms else []
    if unknown := sorted(set(wanted) - set(ALGORITHMS)):
        parser.error(f"wanted some of {', '.join(ALGORITHMS)}, found {', '.join(unknown)}")
    settings = Settings()
    torch.set_num_threads(1)
    try:
        sequences = read_sequences(options.data or settings.data_dir / DATA)
        pythons = {
            e: python_of(e, settings.state_dir) for e in {ALGORITHMS[w].environment for w in wanted}
        }
        report = compare(sequences, wanted, pythons, rounds=options.rounds, seed=options.seed)
    except RecsysError as error:
        sys.stderr.write(f"collaborative: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def compare(
    sequences: Sequences,
    wanted: list[str],
    pythons: Mapping[str, Path],
    *,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """Choose the settings of each, then fit all in turns and judge them."""
    past, test, everyone = sequences.until(2), HeldOut.of(sequences, 1), HeldOut.of(sequences, 2)
    drawn = np.random.default_rng(seed).permutation(sequences.num_users)[:_TUNING_USERS]
    tuning = _some(everyone, np.sort(drawn))
    chosen: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="collaborative-") as name:
        folder = Path(name)
        write_pairs(folder, past, sequences.num_items)
        for title in wanted:
            algorithm = ALGORITHMS[title]
            python = pythons[algorithm.environment]
            found = []
            for settings in algorithm.settings():
                fit_peer(python, algorithm, settings, folder, seed)
                scores = peer_scores(folder, everyone.history, sequences.num_items)
                ranks = tuning.ranks(lambda rows, of=scores: of(np.sort(drawn)[rows]))
                found.append((ndcg_at_10(ranks), settings))
            chosen[title] = max(found, key=lambda pair: pair[0])[1]
        ours = _choose_ours(past, tuning, sequences.num_items)
        write_pairs(folder, sequences.until(1), sequences.num_items)
        cpu: dict[str, list[float]] = {title: [] for title in ("ours item-kNN", *wanted)}
        quality: dict[str, dict[str, object]] = {}
        for turn in range(rounds):
            begin = time.process_time()
            neighbours = Neighbours(past, sequences.num_items, shrinkage=ours["shrinkage"])
            cpu["ours item-kNN"].append(time.process_time() - begin)
            judged = {"ours item-kNN": neighbours.scores(test.history, decay=ours["decay"])}
            for title in wanted:
                algorithm = ALGORITHMS[title]
                python = pythons[algorithm.environment]
                cpu[title].append(fit_peer(python, algorithm, chosen[title], folder, seed))
                judged[title] = peer_scores(folder, test.history, sequences.num_items)
            if turn == 0:
                judged["popular"] = popular_scores(past, sequences.num_items)
                for title, scores in judged.items():
                    rng = np.random.default_rng(seed)
                    quality[title] = quality_of(test.ranks(scores), rng=rng).as_json()
    return {
        "benchmark": "training.collaborative",
        "users": sequences.num_users,
        "items": sequences.num_items,
        "quality": quality,
        "cpu_s": {title: round(statistics.median(took), 3) for title, took in cpu.items()},
        "cpu_s_range": {
            title: [round(min(took), 3), round(max(took), 3)] for title, took in cpu.items()
        },
        "settings": {"ours item-kNN": ours, **chosen},
        "tried": {title: dict(ALGORITHMS[title].choices) for title in wanted},
        "seed": seed,
        "rounds": rounds,
        "versions": {p.name: p.version for p in PEERS if p.environment in pythons},
        **surroundings(),
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


def _some(everyone: HeldOut, rows: Int64s) -> HeldOut:
    return HeldOut(
        history=rows_of(everyone.history, rows),
        target=everyone.target[rows],
        num_items=everyone.num_items,
    )


def _choose_ours(past: Ragged, tuning: HeldOut, num_items: int) -> dict[str, float]:
    found = []
    for shrinkage in _SHRINKAGE:
        neighbours = Neighbours(past, num_items, shrinkage=shrinkage)
        for decay in _DECAYS:
            ranks = tuning.ranks(neighbours.scores(tuning.history, decay=decay))
            found.append((ndcg_at_10(ranks), {"shrinkage": shrinkage, "decay": decay}))
    return max(found, key=lambda pair: pair[0])[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
