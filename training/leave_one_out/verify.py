"""``python -m training.leave_one_out.verify``: does the standard recipe still pass its bars?

Trains on Amazon Beauty (found under ``RECSYS_DATA_DIR``) with three seeds and fails when the mean
over them, of the model alone or of the fused list, is below the published figures of SASRec with
sampled softmax. Minutes on two cores, so it is no unit test. Several ``--seed`` options replace the
seeds; ``--without-attributes`` learns from identities alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recsys.errors import RecsysError
from recsys.settings import Settings
from training.leave_one_out.command import as_json, as_table, read
from training.leave_one_out.recipe import find_recipe
from training.leave_one_out.run import Outcome, run_seed
from training.loop import NoCheckpoints
from training.progress import Progress
from training.world import World

BARS = {"recall@10": 0.0921, "ndcg@10": 0.0531}
"""SASRec with sampled softmax on the same file."""
SEEDS = (7, 8, 9)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when every bar is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="standard")
    parser.add_argument("--seed", type=int, action="append", help="default: 7, 8, 9")
    parser.add_argument("--without-attributes", action="store_true")
    parser.add_argument("--no-baselines", action="store_true")
    args = parser.parse_args(argv)
    progress = Progress()
    folder = Settings().data_dir / "amazon_beauty"
    data = folder / "Beauty.txt"
    attributes = None if args.without_attributes else folder / "Beauty_item2attributes.json"
    outcomes: list[Outcome] = []
    try:
        sequences, found = read(data, attributes, progress)
        for number, seed in enumerate(args.seed or SEEDS):
            recipe = replace(find_recipe(args.recipe), seed=seed)
            outcome = run_seed(
                sequences, found, recipe, world=World(), checkpoints=NoCheckpoints(),
                progress=progress, with_baselines=number == 0 and not args.no_baselines,
            )  # fmt: skip
            outcomes.append(outcome)
            progress.console.print(as_table(f"validation, seed {seed}", outcome.validation))
            progress.console.print(as_table(f"test, seed {seed}", outcome.test))
            sys.stdout.write(json.dumps(as_json(outcome, recipe, sequences, Path(data))) + "\n")
            sys.stdout.flush()
    except RecsysError as error:
        sys.stderr.write(f"leave_one_out.verify: {error}\n")
        return 2
    missed: list[str] = []
    means: dict[str, dict[str, float]] = {}
    for name in ("towers", "fused"):
        means[name] = {
            metric: statistics.mean(o.test[name].mean(metric) for o in outcomes) for metric in BARS
        }
        missed += [
            f"{name}, {metric}: wanted at least {bar}, found {means[name][metric]:.4f} on average"
            for metric, bar in BARS.items()
            if means[name][metric] < bar
        ]
    for line in missed:
        sys.stderr.write(line + "\n")
    summary = {"passed": not missed, "missed": missed, "mean": means, "seeds": len(outcomes)}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
