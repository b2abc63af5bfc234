"""``recsys train --recipe demo --dataset online_retail``: train, judge, make a bundle.

Reads the event log under the state folder (or, with ``--from-files``, the data set itself),
trains towers and ranker on Ray, judges the bundle on the data from ``--test-from`` on, and adds it
to the bundle store. Progress and tables go to standard error, one JSON result to standard output.
It does not change which bundle is live: ``recsys publish`` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recsys.clock import now_ms
from recsys.errors import InputError, RecsysError
from recsys.evaluation.report import as_table
from recsys.features import current_plan
from recsys.settings import Settings
from training.bundle_run import Made, make_bundle
from training.examples.build import Place
from training.export import code_version
from training.fit import Fitted
from training.loop import NoCheckpoints, World
from training.prepared import Prepared
from training.progress import Progress
from training.recipe_file import read_recipe
from training.recipes import RECIPES, Recipe, find_recipe
from training.source import Source, Wanted, content_hash, exposures_of, read_log, source_of
from training.tracking.mirror import mirror_bundles


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    # A polite kill unwinds, so that Ray's processes and folder go with us.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    begin = time.perf_counter()
    progress = Progress(quiet=args.quiet)
    try:
        made, recipe = _run(args, progress)
    except RecsysError as error:
        sys.stderr.write(f"recsys train: {error}\n")
        return 2
    for view, rows in made.verdict.tables.items():
        progress.console.print(as_table(view.replace("_", " "), rows))
    took_s = time.perf_counter() - begin
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    progress.console.print(
        f"bundle [bold]{made.manifest.bundle_id}[/bold] in {took_s:.1f} s "
        f"({peak_mb:.0f} MB at most in this process)"
    )
    sys.stdout.write(json.dumps(_result(made, recipe, took_s, peak_mb, progress)) + "\n")
    if not args.no_tracking:
        progress.console.print(mirror_bundles(Settings()).said())
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="demo", choices=sorted(RECIPES))
    parser.add_argument(
        "--recipe-file", type=Path, help="a recipe in TOML or JSON, instead of --recipe"
    )
    parser.add_argument(
        "--dataset", default="online_retail",
        help="mapping that says objectives and split: a worked one's name or a .toml file; "
        "'simulated' takes objectives from the types in the log",
    )  # fmt: skip
    parser.add_argument("--shift-ms", type=int, default=0, help="shift the replay added to times")
    parser.add_argument(
        "--test-from", help="first moment of the test (ISO 8601, UTC, before the shift)"
    )
    parser.add_argument(
        "--features", choices=("joined", "logged"),
        help="of users in shown lists: joined from the event log, or as logged at serving; "
        "default: the recipe's",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--workers", type=int, default=1, help="Ray Train workers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--no-ray", action="store_true", help="fit in this process")
    parser.add_argument(
        "--from-files", action="store_true",
        help="read the data set's files instead of the event log (no Kafka needed)",
    )  # fmt: skip
    parser.add_argument("--no-tracking", action="store_true", help="do not tell MLflow")
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace, progress: Progress) -> tuple[Made, Recipe]:
    settings = Settings()
    recipe = read_recipe(args.recipe_file) if args.recipe_file else find_recipe(args.recipe)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    if args.features is not None:
        recipe = replace(recipe, ranker=replace(recipe.ranker, features=args.features))
    use_gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if args.workers < 1:
        raise InputError(f"--workers: wanted 1 or more, found {args.workers}")
    progress.console.print(
        f"[bold]train[/bold] recipe {recipe.name}, data set {args.dataset}, seed {recipe.seed}, "
        f"device {'cuda' if use_gpu else 'cpu'}, code {code_version()}"
    )
    source = read_source(args, settings, progress)
    with _examples_place(args, settings) as place:
        made = make_bundle(
            source, recipe, settings.bundle_dir, world=World(), checkpoints=NoCheckpoints(),
            progress=progress, now_ms=now_ms(), examples=place,
            fitter=lambda p: _fit(p, args, settings, progress),
        )  # fmt: skip
    return made, recipe


@contextmanager
def _examples_place(args: argparse.Namespace, settings: Settings) -> Iterator[Place]:
    """Say where example tables are kept and who makes them, Ray running meanwhile if it is used."""
    storage = settings.state_dir.absolute() / "training"
    if args.no_ray:
        yield Place(root=storage / "examples")
        return
    from training.examples.ray_data import make_over_ray
    from training.ray_start import started

    with started(settings.ray_address, args.workers):
        yield Place(root=storage / "examples", make=make_over_ray)


def read_source(args: argparse.Namespace, settings: Settings, progress: Progress) -> Source:
    """Read what the run learns from: log, plan, and what the mapping says of both.

    Raises:
        InputError: when the log is empty.
    """
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    wanted = Wanted(
        dataset=args.dataset, shift_ms=args.shift_ms, test_from=args.test_from,
        from_files=args.from_files,
    )  # fmt: skip
    with progress.stage("read the log"):
        log = read_log(settings, wanted)
    return source_of(
        log, plan, args.dataset, shift_ms=args.shift_ms, test_from=args.test_from,
        data_hash=content_hash(log), exposures=None if args.from_files else exposures_of(settings),
    )  # fmt: skip


def _fit(
    prepared: Prepared, args: argparse.Namespace, settings: Settings, progress: Progress
) -> tuple[Fitted, str]:
    def on_epoch(phase: str, epoch: int, epochs: int, loss: float) -> None:
        progress.console.print(f"  {phase}: epoch {epoch + 1} of {epochs}, loss {loss:.4f}")

    use_gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    if args.no_ray:
        from training.fit import fit

        device = torch.device("cuda" if use_gpu else "cpu")
        fitted = fit(
            prepared, world=World(device=device), checkpoints=NoCheckpoints(), on_epoch=on_epoch
        )
        return fitted, device.type
    from training.ray_job import fit_on_ray

    return fit_on_ray(
        prepared, storage=settings.state_dir / "training", address=settings.ray_address,
        num_workers=args.workers, use_gpu=use_gpu, on_epoch=on_epoch,
    )  # fmt: skip


def _result(
    made: Made, recipe: Recipe, took_s: float, peak_mb: float, progress: Progress
) -> dict[str, Any]:
    return {
        "bundle_id": made.manifest.bundle_id,
        "folder": str(made.folder),
        "recipe": dataclasses.asdict(recipe),
        "metrics": made.manifest.metrics,
        "lineage": made.manifest.lineage.model_dump(),
        "took_s": round(took_s, 1),
        "stage_s": {name: round(seconds, 1) for name, seconds in progress.seconds.items()},
        "peak_mb": round(peak_mb),
    }


if __name__ == "__main__":
    sys.exit(main())
