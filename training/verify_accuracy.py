"""``python -m training.verify_accuracy``: does the demo's recipe still beat what it must beat?

Trains on Online Retail (found under ``RECSYS_DATA_DIR``) in this process, without Kafka and Ray,
and fails when the served list is below a bar: recent popularity and EASE for new items,
personal frequency where repeats are allowed. Takes a minute or two on two cores, so it is no unit
test. Several ``--seed`` options run one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recsys.clock import now_ms
from recsys.errors import RecsysError
from recsys.evaluation.report import as_table
from recsys.features import current_plan
from recsys.settings import Settings
from training.bundle_run import make_bundle
from training.dataset_log import log_of_dataset
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import find_recipe
from training.source import source_of

DATASET = "online_retail"
BARS = {
    "new_items_only": {"recall@20": 0.1062, "ndcg@20": 0.1048},
    "repeats_allowed": {"recall@20": 0.2559, "ndcg@20": 0.3351},
}
"""EASE (penalty picked on the test), and personal frequency."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when every bar is passed by every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--seed", type=int, action="append", help="default: 7")
    args = parser.parse_args(argv)
    settings, progress = Settings(), Progress()
    missed: list[str] = []
    try:
        log = log_of_dataset(DATASET, settings.data_dir)
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        source = source_of(log, plan, DATASET, shift_ms=0, test_from=None)
        for seed in args.seed or [7]:
            recipe = replace(find_recipe(args.recipe), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                made = make_bundle(
                    source, recipe, Path(folder), world=World(), checkpoints=NoCheckpoints(),
                    progress=progress, now_ms=now_ms(),
                )  # fmt: skip
            for view, rows in made.verdict.tables.items():
                progress.console.print(as_table(f"{view}, seed {seed}", rows))
                found = rows["served"].as_json()
                missed += [
                    f"seed {seed}, {view}, {name}: wanted more than {bar}, found {found[name]}"
                    for name, bar in BARS[view].items()
                    if not float(str(found[name])) > bar
                ]
    except RecsysError as error:
        sys.stderr.write(f"verify_accuracy: {error}\n")
        return 2
    for line in missed:
        sys.stderr.write(line + "\n")
    sys.stdout.write(json.dumps({"passed": not missed, "missed": missed}) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
