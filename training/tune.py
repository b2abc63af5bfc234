"""``recsys tune --recipe demo --budget-s 600 --trials 20``: search for a better recipe.

Every trial is trained and judged on the time before the test, which is never read. Poor ones are
stopped after a quarter or half of their epochs (ASHA). The same command goes on with a search that
was interrupted. Writes the best recipe as a file that ``recsys train --recipe-file`` takes; a table
goes to standard error, one JSON result to standard output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

from recsys.errors import InputError, RecsysError
from recsys.settings import Settings
from training.progress import Progress
from training.recipe_file import read_recipe, write_recipe
from training.recipes import RECIPES, Recipe, find_recipe
from training.search_space import SPACE, Domain, check_space, read_space, with_values
from training.train import read_source
from training.trial import Trials, without_test
from training.tune_job import Tried, search


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    progress = Progress(quiet=args.quiet)
    try:
        best, out, tried = _run(args, progress)
    except RecsysError as error:
        sys.stderr.write(f"recsys tune: {error}\n")
        return 2
    progress.console.print(_table(tried))
    progress.console.print(f"best recipe in [bold]{out}[/bold]")
    result = {"recipe_file": str(out), "recipe": asdict(best), "trials": [asdict(t) for t in tried]}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="demo", choices=sorted(RECIPES))
    parser.add_argument(
        "--recipe-file", type=Path, help="a recipe in TOML or JSON, instead of --recipe"
    )
    parser.add_argument("--dataset", default="online_retail", help="as for `recsys train`")
    parser.add_argument("--shift-ms", type=int, default=0, help="shift the replay added to times")
    parser.add_argument("--test-from", help="first moment of the test, which no trial reads")
    parser.add_argument(
        "--from-files", action="store_true",
        help="read the data set's files instead of the event log (no Kafka needed)",
    )  # fmt: skip
    parser.add_argument("--space", type=Path, help="fields and their ranges, in TOML")
    parser.add_argument("--trials", type=int, default=20, help="recipes to try")
    parser.add_argument("--budget-s", type=float, default=600.0, help="seconds for this command")
    parser.add_argument("--seed", type=int, help="of the draws and of every trial")
    parser.add_argument("--out", type=Path, help="where the best recipe is written")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace, progress: Progress) -> tuple[Recipe, Path, list[Tried]]:
    from training.ray_start import started

    settings = Settings()
    base = read_recipe(args.recipe_file) if args.recipe_file else find_recipe(args.recipe)
    if args.seed is not None:
        base = replace(base, seed=args.seed)
    space = read_space(args.space, base) if args.space else SPACE
    check_space(space, base, where="search space")
    if args.trials < 1 or args.budget_s <= 0:
        raise InputError(
            f"--trials and --budget-s: wanted more than 0, found {args.trials}, {args.budget_s}"
        )
    source = without_test(read_source(args, settings, progress), base)
    storage = settings.state_dir.absolute() / "training"
    folder = storage / "tune" / _name(source.data_hash, base, space, args)
    trials = Trials(source=source, base=base, examples=storage / "examples")
    with started(settings.ray_address, 1), progress.stage("search"):
        tried = search(
            trials, space, folder=folder, num_trials=args.trials, budget_s=args.budget_s,
            seed=base.seed,
        )  # fmt: skip
    best = with_values(base, tried[0].values, where="search")
    best = replace(best, name=f"{base.name}-tuned")
    out = args.out or folder / "best.json"
    write_recipe(out, best)
    return best, out, tried


def _name(data_hash: str, base: Recipe, space: dict[str, Domain], args: argparse.Namespace) -> str:
    """Name a search by what it searches in, so that the same command finds it again."""
    what = [
        data_hash, asdict(base), {name: asdict(domain) for name, domain in space.items()},
        args.dataset, args.test_from, args.trials,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def _table(tried: Sequence[Tried]) -> Table:
    table = Table(title="trials, best first", title_justify="left")
    for column in ("rungs", "NDCG", "recipe"):
        table.add_column(column)
    for one in tried:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in one.values.items()
        )
        table.add_row(str(one.rungs), f"{one.ndcg:.4f}", values)
    return table


if __name__ == "__main__":
    sys.exit(main())
