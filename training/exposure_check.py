"""What checks of the ranker on logged exposures have in common: features, identities, seeds, end.

A check reads its data once, then trains and judges one ranker per seed. It says all it found as one
JSON line on stdout and what fell short on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.data.vocabulary import Vocabulary
from recsys.errors import RecsysError
from recsys.features import current_plan
from recsys.features.batch import Bools
from recsys.features.plan import Plan
from recsys.settings import Settings
from training.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent / "feature_repo_exposures"
SEEDS = (7, 8, 9)
MIN_EXPOSURES_FOR_ID = 5
"""Items shown less often are known by their attributes alone: their own row would be noise."""

Findings = dict[str, Any]
OneSeed = Callable[[int], tuple[Findings, Sequence[str]]]
"""Trains and judges with a seed; gives what was found, and a line for each bar that is missed."""


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Let the command choose its seeds."""
    parser.add_argument(
        "--seed", type=int, action="append", help=f"default: {', '.join(map(str, SEEDS))}"
    )


def run_check(
    name: str,
    seeds: Sequence[int] | None,
    progress: Progress,
    begin: Callable[[Findings], OneSeed],
) -> int:
    """Run a check: 0 when every seed passes, 1 when one falls short, 2 when it cannot be run.

    Args:
        name: Of the command, for its errors.
        seeds: None: ``SEEDS``.
        progress: Told of each seed's findings.
        begin: Reads the data and gives what is done for each seed; it may add findings of its own.
    """
    missed: list[str] = []
    found: Findings = {}
    try:
        one_seed = begin(found)
        for seed in seeds or SEEDS:
            began_s = time.process_time()
            result, short = one_seed(seed)
            result["cpu_s"] = round(time.process_time() - began_s)
            progress.console.print_json(data={f"seed {seed}": result})
            found[f"seed {seed}"] = result
            missed += [f"seed {seed}, {line}" for line in short]
    except RecsysError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    for line in missed:
        sys.stderr.write(line + "\n")
    sys.stdout.write(json.dumps({"passed": not missed, "missed": missed, "found": found}) + "\n")
    return 1 if missed else 0


def exposure_plan(settings: Settings) -> Plan:
    """Give the features of ``feature_repo_exposures``, applied anew where they have changed."""
    return current_plan.ensure(
        settings.state_dir / "exposures", project=settings.namespace, repository=REPOSITORY
    )


def shown_often(shown: pl.Series, vocabulary: Vocabulary) -> Bools:
    """Give ``[N + 1]``: which items are to have an embedding of their own; 0, padding, is not.

    ``shown``: an item id for each exposure that is learned from.
    """
    times = shown.value_counts(name="times")
    often = set(times.filter(pl.col("times") >= MIN_EXPOSURES_FOR_ID)[shown.name].to_list())
    return np.array([False, *(i in often for i in vocabulary.item_ids)])
