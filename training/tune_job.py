"""A search over a recipe by Ray Tune: random draws, and ASHA to stop the poor ones early.

Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning" (ASHA); the engine
is Ray's. A search that was killed goes on from its finished rungs when the same command is given.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory, write_durably
from training.search_space import Domain, values_of, with_values
from training.trial import SHARES, Trials, judged

METRIC = "validation_ndcg"
_RUNG_FILE = "rung.json"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of one trial."""

    values: dict[str, Any]
    rungs: int
    """Finished: the third is a whole run."""
    ndcg: float


def search(
    trials: Trials,
    space: Mapping[str, Domain],
    *,
    folder: Path,
    num_trials: int,
    budget_s: float,
    seed: int,
) -> list[Tried]:
    """Try recipes over the Ray this process is connected to; give them all, the best first.

    Those that went further come before those that were stopped. The first trial is the recipe as
    it is. ``folder`` holds the search's state.

    Raises:
        ConfigurationError: when Ray fails, or no trial reached its first rung.
    """
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    make_directory(folder)
    task_file = folder / "trials.pickle"
    write_durably(task_file, pickle.dumps(trials))
    trainable = partial(_trial, task_file=str(task_file))
    state = folder / "tune"
    try:
        if tune.Tuner.can_restore(str(state)):
            tuner = tune.Tuner.restore(str(state), trainable, resume_unfinished=True)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={name: _domain(domain) for name, domain in space.items()},
                tune_config=tune.TuneConfig(
                    metric=METRIC, mode="max", num_samples=num_trials, time_budget_s=budget_s,
                    max_concurrent_trials=1,
                    search_alg=BasicVariantGenerator(
                        points_to_evaluate=[values_of(trials.base, space)], random_state=seed,
                    ),
                    scheduler=ASHAScheduler(
                        max_t=len(SHARES), grace_period=1, reduction_factor=2
                    ),
                ),
                run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
            )  # fmt: skip
        found = tuner.fit()
    except Exception as error:  # Ray has many kinds; all of them end the search
        raise ConfigurationError(
            f"the search failed: {error}\nwhat was finished is in {folder}; the same command goes "
            "on from there"
        ) from error
    tried = [
        Tried(
            values=dict(result.config or {}), rungs=int(result.metrics["training_iteration"]),
            ndcg=float(result.metrics[METRIC]),
        )
        for result in found
        if result.metrics and METRIC in result.metrics
    ]  # fmt: skip
    if not tried:
        said = "; ".join(str(error).strip().splitlines()[-1] for error in found.errors[:1])
        raise ConfigurationError(
            f"no trial reached its first rung within {budget_s:.0f} s (found "
            f"{len(found)} trials{', error: ' + said if said else ''}); give a larger --budget-s"
        )
    return sorted(tried, key=lambda one: (-one.rungs, -one.ndcg))


def _domain(domain: Domain) -> Any:
    from ray import tune

    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    low, high = domain.values
    return tune.loguniform(low, high) if domain.kind == "log_uniform" else tune.uniform(low, high)


def _trial(config: dict[str, Any], task_file: str) -> None:
    """Run in a process of Ray's: rung after rung, from where an earlier life of it was."""
    from ray import tune

    trials: Trials = pickle.loads(Path(task_file).read_bytes())
    recipe = with_values(trials.base, config, where="search")
    first = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as there:
            first = int(json.loads((Path(there) / _RUNG_FILE).read_text()))
    for rung in range(first, len(SHARES)):
        ndcg = judged(trials, recipe, SHARES[rung])
        with tempfile.TemporaryDirectory() as here:
            (Path(here) / _RUNG_FILE).write_text(json.dumps(rung + 1))
            tune.report(
                {METRIC: ndcg, "rung": rung + 1}, checkpoint=tune.Checkpoint.from_directory(here)
            )
