"""``python -m benchmarks.training.collaborative``: implicit and LightFM beside our item neighbours.

Amazon Beauty's published split (``training/leave_one_out/protocol.py``): all competing items are
ranked, by one code for all. Each algorithm's settings are chosen on the users' second last events
(NDCG@10 of 5,000 users) among a few around its documentation's. The one chosen is fitted again on
all events but the last, since these models cannot read an event they were not fitted on, and judged
on the last, in turns with ours, which are fitted without the second last event, too, and read it.
``cpu_s`` is of that fit alone, on one thread. ``--settings`` takes what an earlier run chose
instead of choosing anew. Without ``--data`` the file is looked for under ``RECSYS_DATA_DIR``.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.environments import python_of
from benchmarks.peers.registry import PEERS
from benchmarks.peers.surroundings import surroundings
from benchmarks.training.collaborative_jobs import (
    ALGORITHMS,
    fit_peer,
    peer_scores,
    write_pairs,
)
from recsys.errors import InputError, RecsysError
from recsys.features.batch import Ragged
from recsys.settings import Settings
from training.leave_one_out.protocol import HeldOut, ndcg_at_10, quality_of
from training.leave_one_out.scorers import Neighbours, popular_scores
from training.leave_one_out.sequences import Sequences, read_sequences
from training.report.protocol import rows_of

OURS = "ours item-kNN"
DATA = Path("amazon_beauty") / "Beauty.txt"
_TUNING_USERS = 5_000
_SHRINKAGE = (5.0, 10.0, 20.0)
_DECAYS = (1.0, 0.8, 0.6)


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
    parser.add_argument("--settings", type=Path, help="what an earlier run printed, in a file")
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
        earlier = _earlier(options.settings, wanted) if options.settings else None
        report = compare(
            sequences, wanted, pythons, rounds=options.rounds, seed=options.seed, chosen=earlier
        )
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
    chosen: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Choose the settings of each unless they are given, then fit all in turns and judge them."""
    past, test = sequences.until(2), HeldOut.of(sequences, 1)
    with tempfile.TemporaryDirectory(prefix="collaborative-") as name:
        folder = Path(name)
        if chosen is None:
            chosen = choose(sequences, wanted, pythons, folder, seed)
        ours = chosen[OURS]
        write_pairs(folder, sequences.until(1), sequences.num_items)
        cpu: dict[str, list[float]] = {title: [] for title in (OURS, *wanted)}
        quality: dict[str, dict[str, object]] = {}
        for turn in range(rounds):
            begin = time.process_time()
            neighbours = Neighbours(past, sequences.num_items, shrinkage=ours["shrinkage"])
            cpu[OURS].append(time.process_time() - begin)
            judged = {OURS: neighbours.scores(test.history, decay=ours["decay"])}
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
        "settings": chosen,
        "tried": {title: dict(ALGORITHMS[title].choices) for title in wanted},
        "seed": seed,
        "rounds": rounds,
        "versions": {p.name: p.version for p in PEERS if p.environment in pythons},
        **surroundings(),
    }


def choose(
    sequences: Sequences, wanted: list[str], pythons: Mapping[str, Path], folder: Path, seed: int
) -> dict[str, dict[str, float]]:
    """Give the settings of each, ours included, that rank the second last events best."""
    everyone, past = HeldOut.of(sequences, 2), sequences.until(2)
    drawn = np.random.default_rng(seed).permutation(sequences.num_users)[:_TUNING_USERS]
    rows = np.sort(drawn)
    tuning = HeldOut(
        history=rows_of(everyone.history, rows),
        target=everyone.target[rows],
        num_items=everyone.num_items,
    )
    write_pairs(folder, past, sequences.num_items)
    chosen = {OURS: _choose_ours(past, tuning, sequences.num_items)}
    for title in wanted:
        algorithm = ALGORITHMS[title]
        found = []
        for settings in algorithm.settings():
            fit_peer(pythons[algorithm.environment], algorithm, settings, folder, seed)
            scores = peer_scores(folder, everyone.history, sequences.num_items)
            ranks = tuning.ranks(lambda some, of=scores: of(rows[some]))
            found.append((ndcg_at_10(ranks), settings))
        chosen[title] = max(found, key=lambda pair: pair[0])[1]
    return chosen


def _earlier(path: Path, wanted: list[str]) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text())["settings"]
        if set(found[OURS]) != {"shrinkage", "decay"}:
            raise ValueError(f"of {OURS}: {found[OURS]}")
        return {title: found[title] for title in (OURS, *wanted)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--settings: wanted what an earlier run printed, with {', '.join(wanted)}, in {path}: "
            f"{error!r}"
        ) from error


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
