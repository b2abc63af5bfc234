"""``recsys leave-one-out --data FILE``: train a next-item model and judge it by the usual protocol.

The file holds one user a line, ``user item item …``, oldest first. The model learns from all but
each user's last two events, is chosen by the second last and judged on the last, ranking all items
the user did not have, beside popularity, item-kNN and EASE. Tables go to standard error, one JSON
result to standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from recsys.errors import InputError, RecsysError
from recsys.models.next_item import ItemAttributes
from training.checkpoint_files import FolderCheckpoints
from training.export import code_version
from training.leave_one_out.protocol import Quality
from training.leave_one_out.recipe import RECIPES, NextItemRecipe, find_recipe
from training.leave_one_out.run import Outcome, run_seed
from training.leave_one_out.sequences import Sequences, read_attributes, read_sequences
from training.loop import Checkpoints, NoCheckpoints
from training.progress import Progress
from training.world import World

COLUMNS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "mrr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    progress = Progress(quiet=args.quiet)
    try:
        world = World(device=_device(args.device))
        recipe = _recipe(args)
        sequences, attributes = read(args.data, args.attributes, progress)
        progress.console.print(
            f"[bold]leave-one-out[/bold] recipe {recipe.name}, seed {recipe.seed}, device "
            f"{world.device.type}, code {code_version()}"
        )
        outcome = run_seed(
            sequences, attributes, recipe, world=world,
            checkpoints=_checkpoints(args, recipe), progress=progress,
            with_baselines=not args.no_baselines,
        )  # fmt: skip
    except RecsysError as error:
        sys.stderr.write(f"recsys leave-one-out: {error}\n")
        return 2
    for title, rows in (("validation", outcome.validation), ("test", outcome.test)):
        progress.console.print(as_table(f"{title}, seed {outcome.seed}", rows))
    sys.stdout.write(json.dumps(as_json(outcome, recipe, sequences, args.data)) + "\n")
    return 0


def read(
    data: Path, attributes: Path | None, progress: Progress
) -> tuple[Sequences, ItemAttributes | None]:
    """Read the files, and say what is in them."""
    sequences = read_sequences(data)
    progress.console.print(
        f"  {sequences.num_users} users, {sequences.num_items} items, {len(sequences.item)} events"
        + (
            f"; {sequences.num_too_short} users with fewer than 3 events are left out"
            if sequences.num_too_short
            else ""
        )
    )
    if attributes is None:
        return sequences, None
    found, num_without = read_attributes(attributes, sequences)
    progress.console.print(
        f"  {found.num_attributes} attributes; {num_without} items have none of them"
    )
    return sequences, found


def as_table(title: str, rows: dict[str, Quality]) -> Table:
    """Give a printable table, one recommender a line."""
    table = Table(title=title, title_justify="left")
    table.add_column("recommender", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, quality in rows.items():
        table.add_row(name, *(f"{quality.mean(column):.4f}" for column in COLUMNS))
    low, high = next(iter(rows.values())).by_name["recall@10"][1:]
    table.caption = f"95 % interval of the first line's recall@10: {low:.4f} … {high:.4f}"
    return table


def as_json(
    outcome: Outcome, recipe: NextItemRecipe, sequences: Sequences, data: Path
) -> dict[str, Any]:
    """Give the result with what made it."""
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "data": {
            "sha256": digest, "users": sequences.num_users, "items": sequences.num_items,
            "events": len(sequences.item), "users_left_out": sequences.num_too_short,
        },
        "recipe": dataclasses.asdict(recipe),
        "validation": {name: q.as_json() for name, q in outcome.validation.items()},
        "test": {name: q.as_json() for name, q in outcome.test.items()},
        "chosen_on_validation": outcome.chosen,
        "curve": [[name, epoch, round(value, 5)] for name, epoch, value in outcome.curve],
        "training_cpu_s": round(outcome.cpu_s, 1),
        "training_wall_s": round(outcome.wall_s, 1),
        "targets_per_s": round(outcome.targets_per_s),
        "stage_s": {name: round(seconds, 1) for name, seconds in outcome.stage_s.items()},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "code": code_version(),
    }  # fmt: skip


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys leave-one-out",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="file of sequences")
    parser.add_argument(
        "--attributes",
        type=Path,
        help='JSON {"item": [attribute, …]}: added to the items\' vectors',
    )
    parser.add_argument("--recipe", default="standard", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--checkpoints", type=Path,
        help="folder of this run alone: a run that was killed goes on from the last one",
    )  # fmt: skip
    parser.add_argument(
        "--no-baselines", action="store_true", help="the model and its fusion alone"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return parser.parse_args(argv)


def _recipe(args: argparse.Namespace) -> NextItemRecipe:
    recipe = find_recipe(args.recipe)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    if args.epochs is not None:
        if args.epochs < 1:
            raise InputError(f"--epochs: wanted 1 or more, found {args.epochs}")
        recipe = replace(recipe, epochs=args.epochs)
    return recipe


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    use_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def _checkpoints(args: argparse.Namespace, recipe: NextItemRecipe) -> Checkpoints:
    """Keep them apart by what a run learns from, so that nobody goes on from another's weights."""
    if args.checkpoints is None:
        return NoCheckpoints()
    identity = hashlib.sha256(repr(recipe).encode())
    for path in (args.data, args.attributes):
        identity.update(path.read_bytes() if path is not None else b"\0")
    return FolderCheckpoints(args.checkpoints / identity.hexdigest()[:12])


if __name__ == "__main__":
    sys.exit(main())
