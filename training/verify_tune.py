"""``python -m training.verify_tune``: does a search find, and go on where it was?

Searches the made-up log on a local Ray with two trials of the small recipe, gives the same command
again, which must have nothing left to do, and reads the best recipe back from its file. Some
minutes of two cores, so it is no unit test.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from recsys.features import current_plan
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.ray_start import started
from training.recipe_file import read_recipe, write_recipe
from training.recipes import debug
from training.search_space import Domain, with_values
from training.source import Source
from training.trial import SHARES, Trials, without_test
from training.tune_job import search


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when all of it held."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    base = debug()
    space = {"towers.learning_rate": Domain("log_uniform", (1e-4, 1e-2))}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = Source(
            log=made_up_log(), plan=current_plan.ensure(root / "plan", project="recsys"),
            dataset="made_up", objectives=OBJECTIVES, views=("repeats_allowed",), k=5,
            relevant_type="purchase", test_from_ms=DEBUG_END_MS - 4 * 86_400_000,
        )  # fmt: skip
        trials = Trials(source=without_test(source, base), base=base, examples=root / "examples")
        runs, took_s = [], []
        with started(None, 1):
            for _ in range(2):
                began = time.monotonic()
                runs.append(
                    search(
                        trials, space, folder=root / "search", num_trials=2, budget_s=1800.0, seed=1
                    )
                )
                took_s.append(round(time.monotonic() - began))
        first, again = runs
        best = with_values(base, first[0].values, where="search")
        write_recipe(root / "best.json", best)
        rates = [one.values["towers.learning_rate"] for one in first]
        held = {
            "both tried": len(first) == 2,
            "the recipe itself is one": base.towers.learning_rate in rates,
            "the best is a whole run": first[0].rungs == len(SHARES),
            "again finds the same": first == again,
            "the file gives the recipe": read_recipe(root / "best.json") == best,
        }
    told = {"passed": all(held.values()), **held, "took_s": took_s}
    sys.stdout.write(json.dumps(told | {"trials": [asdict(one) for one in first]}) + "\n")
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
