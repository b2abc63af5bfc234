"""What the towers and the ranker of a run learn from: its example tables, found or made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.bundle.manifest import LoggedFeatures, Objective
from recsys.data.examples import visits_of
from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.errors import InputError
from recsys.features.history import UserHistory
from recsys.features.plan import Plan
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.models.encode import UserEncoding
from training.checks import check_classes, check_columns_finite, check_finite
from training.examples.build import Order, Place, build
from training.examples.identity import parts_of
from training.examples.lists import ListShards
from training.examples.partitions import num_parts
from training.examples.shards import ExampleSet
from training.examples.visits import VisitTask
from training.logged_agreement import as_table, compared, said
from training.logged_lists import LoggedLists, read_logged_lists
from training.progress import Progress
from training.questions import QuestionMaker
from training.recipes import Recipe
from training.rounds import QuestionRound
from training.shown_lists import rankers_lists


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The log of a run, and how it is read."""

    log: pl.DataFrame
    log_identity: str
    """A hash of it."""
    plan: Plan
    recipe: Recipe
    objectives: Sequence[Objective]
    split: TimeSplit
    vocabulary: Vocabulary
    encoding: UserEncoding


def logged_lists(
    run: RunData, exposures: LoggedExposures, users: UserHistory, progress: Progress
) -> tuple[LoggedLists, LoggedFeatures]:
    """Read the ranker's lists with their users as logged, and say what there is of them."""
    with progress.stage("logged features"):
        train_log = run.log.filter(pl.col("event_time_ms") < run.split.test_from_ms)
        lists, usable = rankers_lists(
            train_log, run.vocabulary, run.recipe.ranker, run.objectives, run.split
        )
        logged = read_logged_lists(
            exposures, lists, usable, split=run.split, vocabulary=run.vocabulary,
            encoding=run.encoding, plan_schema_hash=run.plan.schema_hash,
            max_lists=run.recipe.ranker.max_lists, rng=np.random.default_rng(run.recipe.seed),
        )  # fmt: skip
        found = compared(logged, users, run.encoding)
    for line in (said(found, logged), as_table(found)):
        progress.console.print(line)
    return logged, found


def find_or_make(
    run: RunData,
    past: Interactions,
    logged: LoggedLists | None,
    maker: QuestionMaker,
    place: Place,
    progress: Progress,
) -> ExampleSet:
    """Find or make the example tables of visits and of the ranker's lists.

    Raises:
        InputError: when no list of the ranker's part of the log has a label.
    """
    made_from = parts_of(
        log=run.log_identity, plan=run.plan, recipe=run.recipe, objectives=run.objectives,
        encoding=run.encoding, split=run.split, vocabulary=run.vocabulary,
        exposures=None if logged is None else logged.identity,
    )  # fmt: skip

    def task(cut: Path, out: Path) -> VisitTask:
        return VisitTask(
            parts=cut, out=out, plan=run.plan, vocabulary=run.vocabulary, encoding=run.encoding,
            pause_ms=run.recipe.towers.pause_ms, until_ms=run.split.test_from_ms,
            from_ms=_latest_visits_from_ms(past, run.recipe),
        )  # fmt: skip

    def rounds() -> Sequence[QuestionRound]:
        rng = np.random.default_rng(run.recipe.seed)
        if logged is not None:
            found = maker.logged_rounds(logged, run.recipe, run.split)
        elif bool((run.log["kind"] == "impression").any()):
            train_log = run.log.filter(pl.col("event_time_ms") < run.split.test_from_ms)
            found = maker.shown_rounds(
                train_log, run.vocabulary, run.recipe, run.objectives, run.split, rng
            )
        else:
            found = maker.window_rounds(run.recipe, run.objectives, run.split, rng)
        if not found:
            raise InputError(
                "the ranker's part of the log has no labelled list; give a later --test-from or "
                "replay more history"
            )
        return found

    with progress.stage("examples"):
        return build(
            Order(
                made_from=made_from, log=run.log.lazy(), num_parts=num_parts(len(past)), task=task,
                rounds=rounds,
            ),
            place,
        )  # fmt: skip


def _latest_visits_from_ms(past: Interactions, recipe: Recipe) -> int:
    """Give the moment from which on there are no more visits than the recipe wants."""
    moments = visits_of(past, pause_ms=recipe.towers.pause_ms).moment_ms
    if len(moments) <= recipe.towers.max_visits:
        return int(moments.min())
    return int(np.partition(moments, -recipe.towers.max_visits)[-recipe.towers.max_visits])


def check_values(
    rounds: ListShards,
    encoding: UserEncoding,
    plan: Plan,
    objectives: Sequence[Objective],
) -> None:
    """Refuse what cannot be learned from: features that are no numbers, labels that say nothing."""
    num_positive, num_all = [0.0] * len(objectives), 0.0
    for question in rounds:
        check_finite(question.context, encoding, "the ranker's users")
        check_columns_finite(question.activity, plan.item_activity_names, "items")
        is_item = None if question.shown is None else question.shown != 0
        num_all += math.inf if is_item is None else float(is_item.sum())
        for column in range(len(objectives)):
            if is_item is None or question.shown_label is None:
                num_positive[column] += len(question.labels[column].values)
            else:
                num_positive[column] += float(question.shown_label[..., column][is_item].sum())
    for objective, positive in zip(objectives, num_positive, strict=True):
        check_classes(objective.name, positive, num_all)
