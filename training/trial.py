"""One trial of a search: a recipe trained for a share of its epochs, judged before the test begins.

The log ends where the test begins; the time just before is what a trial is judged on, as long as
the test is. Nothing of the test is ever read, so the best recipe can be judged on it afterwards.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recsys.clock import now_ms
from recsys.data.splits import split_by_time
from recsys.errors import InputError
from training.bundle_run import make_bundle
from training.examples.build import Place
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import Recipe
from training.source import Source

SHARES = (0.25, 0.5, 1.0)
"""Of the epochs, rung by rung: a poor recipe costs a quarter of a run."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What all trials of a search share."""

    source: Source
    """Without the test."""
    base: Recipe
    examples: Path


def without_test(source: Source, recipe: Recipe) -> Source:
    """Give the source up to the test, with the time before as its own test.

    Raises:
        InputError: when so little is left that nothing can be judged.
    """
    acted = source.log.filter(pl.col("kind") != "item")["event_time_ms"]
    begin_ms, end_ms = acted.min(), acted.max()
    if not isinstance(begin_ms, int) or not isinstance(end_ms, int):
        raise InputError("the event log has no interaction; replay a data set first")
    split = split_by_time(
        begin_ms=begin_ms, end_ms=end_ms, test_from_ms=source.test_from_ms,
        test_share=recipe.test_share, ranker_span_ms=recipe.ranker.span_ms,
    )  # fmt: skip
    length_ms = min(end_ms - split.test_from_ms, (split.test_from_ms - begin_ms) // 4)
    return replace(
        source,
        log=source.log.filter(pl.col("event_time_ms") < split.test_from_ms),
        test_from_ms=split.test_from_ms - max(length_ms, 1),
        data_hash=f"{source.data_hash}-before-{split.test_from_ms}",
    )


def judged(trials: Trials, recipe: Recipe, share: float) -> float:
    """Train for a share of the epochs; give NDCG of the headline view on the validation time.

    Raises:
        InputError: when nobody can be judged there.
    """
    short = _cut(recipe, share)
    with tempfile.TemporaryDirectory() as folder:
        made = make_bundle(
            trials.source, short, Path(folder), world=World(), checkpoints=NoCheckpoints(),
            progress=Progress(quiet=True), now_ms=now_ms(), examples=Place(root=trials.examples),
        )  # fmt: skip
    view = trials.source.views[0]
    if view not in made.verdict.tables:
        raise InputError(
            "nobody who acted before the validation time acted in it, so no trial can be judged; "
            "give an earlier --test-from or replay more history"
        )
    return float(str(made.verdict.tables[view]["served"].as_json()[f"ndcg@{trials.source.k}"]))


def _cut(recipe: Recipe, share: float) -> Recipe:
    towers, ranker = recipe.towers, recipe.ranker

    def some(epochs: int) -> int:
        return max(round(epochs * share), 1)

    return replace(
        recipe,
        towers=replace(towers, epochs=some(towers.epochs), refit_epochs=some(towers.refit_epochs)),
        ranker=replace(ranker, epochs=some(ranker.epochs)),
    )
