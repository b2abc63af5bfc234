"""From the event log to tensors: vocabulary, visits and questions, features joined point-in-time.

Everything the models will see is made here, so this is where a leak would come from: each feature
is asked for at a moment before the label it helps to predict, and nothing from ``test_from_ms`` on
is read for training at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.manifest import LoggedFeatures, Objective
from recsys.data.catalogue import Catalogue, build_catalogue
from recsys.data.examples import visits_of
from recsys.data.interactions import Interactions, read_interactions
from recsys.data.splits import TimeSplit, split_by_time
from recsys.data.text import word_buckets
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigurationError, InputError
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.models.encode import UserEncoding
from recsys.models.item_table import ItemStatics
from recsys.models.signature import Dimensions
from training.aspect_vectors import aspect_vectors
from training.checks import (
    check_classes,
    check_columns_finite,
    check_feature_source,
    check_finite,
    check_objectives,
    check_services,
    check_windows,
)
from training.examples import lists, visits
from training.examples.build import Order, Place, build, temporary_place
from training.examples.identity import identity_of_log, parts_of
from training.examples.lists import ListShards
from training.examples.partitions import num_parts
from training.examples.shards import ExampleSet
from training.examples.stream import VisitShards
from training.examples.visits import VisitTask
from training.item_inputs import token_inputs
from training.logged_agreement import as_table, compared, said
from training.logged_lists import LoggedLists, read_logged_lists
from training.prepared import Edges, Prepared, Sources
from training.progress import Progress
from training.questions import QuestionMaker
from training.recipe_file import check_recipe
from training.recipes import Recipe
from training.rounds import QuestionRound
from training.shown_lists import rankers_lists


def prepare(
    log: pl.DataFrame,
    plan: Plan,
    recipe: Recipe,
    objectives: Sequence[Objective],
    *,
    test_from_ms: int | None,
    progress: Progress,
    examples: Place | None = None,
    log_identity: str | None = None,
    exposures: LoggedExposures | None = None,
) -> tuple[Prepared, Sources]:
    """Make the tensors of a run, and its examples in ``examples`` (None: a temporary folder).

    ``log_identity`` is a hash of the log where one is at hand. ``exposures`` are read when the
    recipe's ranker learns from logged features.

    Raises:
        InputError: when the log is empty or too short, or an objective has no positive before the
            test, or no list can be learned from as it was logged.
        ConfigurationError: when the recipe wants a feature the plan does not have.
        FeatureError: when it wants a feature that was not logged.
    """
    check_recipe(recipe)
    check_services(plan)
    check_feature_source(recipe.ranker.features, log, has_exposures=exposures is not None)
    popular_weights = _popular_weights(recipe, plan)
    with progress.stage("catalogue and interactions"):
        catalogue = build_catalogue(log)
        interactions = read_interactions(log, catalogue.vocabulary)
        if len(interactions) == 0:
            raise InputError("the event log has no interaction; replay a data set first")
        times = log["event_time_ms"].filter(log["kind"] != "item")
        split = split_by_time(
            begin_ms=int(interactions.time_ms.min()),
            end_ms=int(times.max()),  # type: ignore[arg-type]
            test_from_ms=test_from_ms,
            test_share=recipe.test_share,
            ranker_span_ms=recipe.ranker.span_ms,
        )
        # The same items in the same order, described as they were before the test.
        catalogue = build_catalogue(log, described_until_ms=split.test_from_ms)
        past = interactions.where(interactions.time_ms < split.test_from_ms)
        check_objectives(past, objectives)
        check_windows(past, split)
    with progress.stage("feature history"):
        # What comes after the split stays in: evaluation labels come from it, and the readers
        # never look past the moment they are asked for.
        rows = open_rows(log, plan)
        users = UserHistory(rows, plan, catalogue.vocabulary)
        items = ItemHistory(rows, plan, catalogue.vocabulary)
    encoding, dimensions = _shapes(recipe, plan, catalogue.vocabulary, objectives)
    logged: LoggedLists | None = None
    logged_features: LoggedFeatures | None = None
    if recipe.ranker.features == "logged":
        assert exposures is not None  # check_feature_source
        logged, logged_features = _logged(
            exposures, log, plan, recipe, objectives, split, catalogue.vocabulary, encoding, users,
            progress,
        )  # fmt: skip
    maker = QuestionMaker(past, users, items, encoding, progress)
    made = _examples(
        log, plan, recipe, objectives, split, past, encoding, catalogue.vocabulary, logged,
        maker, examples or temporary_place(), progress, log_identity or identity_of_log(log),
    )  # fmt: skip
    rounds = ListShards(made.folder, made.named(lists.PREFIX))
    statics = _statics(catalogue, recipe)
    check_columns_finite(statics.price.unsqueeze(1), ("price",), "the catalogue's items")
    _check_values(rounds, encoding, plan, objectives)
    all_edges = _edges(past, recipe, catalogue.vocabulary.num_items, split.test_from_ms)
    early = past.where(past.time_ms < split.ranker_from_ms)
    prepared = Prepared(
        recipe=recipe,
        objectives=tuple(objectives),
        dimensions=dimensions,
        encoding=encoding,
        split=split,
        statics=statics,
        available=torch.from_numpy(np.concatenate([[False], catalogue.available])),
        first_seen_ms=torch.from_numpy(np.concatenate([[0], catalogue.first_seen_ms])),
        popular_weights=popular_weights,
        visits=VisitShards(made.folder, made.named(visits.PREFIX)),
        early_edges=_edges(early, recipe, catalogue.vocabulary.num_items, split.ranker_from_ms),
        all_edges=all_edges,
        rounds=rounds,
        activity=maker.activity(split.test_from_ms - 1),
    )
    sources = Sources(
        catalogue=catalogue,
        interactions=interactions,
        users=users,
        items=items,
        num_events=len(log),
        log_positions=_positions(log) | ({} if logged is None else logged.positions),
        logged_features=logged_features,
    )
    return prepared, sources


def _logged(
    exposures: LoggedExposures,
    log: pl.DataFrame,
    plan: Plan,
    recipe: Recipe,
    objectives: Sequence[Objective],
    split: TimeSplit,
    vocabulary: Vocabulary,
    encoding: UserEncoding,
    users: UserHistory,
    progress: Progress,
) -> tuple[LoggedLists, LoggedFeatures]:
    """Read the ranker's lists with their users as logged, and say what there is of them."""
    with progress.stage("logged features"):
        train_log = log.filter(pl.col("event_time_ms") < split.test_from_ms)
        lists, usable = rankers_lists(train_log, vocabulary, recipe.ranker, objectives, split)
        logged = read_logged_lists(
            exposures, lists, usable, split=split, vocabulary=vocabulary, encoding=encoding,
            plan_schema_hash=plan.schema_hash, max_lists=recipe.ranker.max_lists,
            rng=np.random.default_rng(recipe.seed),
        )  # fmt: skip
        found = compared(logged, users, encoding)
    for line in (said(found, logged), as_table(found)):
        progress.console.print(line)
    return logged, found


def _examples(
    log: pl.DataFrame,
    plan: Plan,
    recipe: Recipe,
    objectives: Sequence[Objective],
    split: TimeSplit,
    past: Interactions,
    encoding: UserEncoding,
    vocabulary: Vocabulary,
    logged: LoggedLists | None,
    maker: QuestionMaker,
    place: Place,
    progress: Progress,
    log_identity: str,
) -> ExampleSet:
    """Find or make the example tables."""
    made_from = parts_of(
        log=log_identity, plan=plan, recipe=recipe, objectives=objectives,
        encoding=encoding, split=split, vocabulary=vocabulary,
        exposures=None if logged is None else logged.identity,
    )  # fmt: skip

    def task(cut: Path, out: Path) -> VisitTask:
        return VisitTask(
            parts=cut, out=out, plan=plan, vocabulary=vocabulary, encoding=encoding,
            pause_ms=recipe.towers.pause_ms, until_ms=split.test_from_ms,
            from_ms=_latest_visits_from_ms(past, recipe),
        )  # fmt: skip

    def rounds() -> Sequence[QuestionRound]:
        rng = np.random.default_rng(recipe.seed)
        if logged is not None:
            found = maker.logged_rounds(logged, recipe, split)
        elif bool((log["kind"] == "impression").any()):
            train_log = log.filter(pl.col("event_time_ms") < split.test_from_ms)
            found = maker.shown_rounds(train_log, vocabulary, recipe, objectives, split, rng)
        else:
            found = maker.window_rounds(recipe, objectives, split, rng)
        if not found:
            raise InputError(
                "the ranker's part of the log has no labelled list; give a later --test-from or "
                "replay more history"
            )
        return found

    with progress.stage("examples"):
        return build(
            Order(
                made_from=made_from, log=log.lazy(), num_parts=num_parts(len(past)), task=task,
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


def _check_values(
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


def _edges(past: Interactions, recipe: Recipe, num_items: int, now_ms: int) -> Edges:
    """Give distinct (user, item) with a weight that halves every half-life since the latest."""
    span = num_items + 1
    pair = past.user * span + past.item
    pairs, inverse = np.unique(pair, return_inverse=True)
    last_ms = np.zeros(len(pairs), dtype=np.int64)
    np.maximum.at(last_ms, inverse, past.time_ms)
    age_days = (now_ms - last_ms) / 86_400_000.0
    # The square root, because the neighbours are fitted on products of two weights.
    weight = np.sqrt(np.exp2(-age_days / recipe.neighbours.half_life_days))
    return Edges(
        user=torch.from_numpy(pairs // span),
        item=torch.from_numpy(pairs % span),
        weight=torch.from_numpy(weight.astype(np.float32)),
        num_users=len(past.user_ids),
        counts=torch.from_numpy(np.bincount(past.item, minlength=span)),
    )


def _statics(catalogue: Catalogue, recipe: Recipe) -> ItemStatics:
    num_items = catalogue.vocabulary.num_items
    words = word_buckets(
        catalogue.text,
        num_buckets=recipe.model.num_text_buckets,
        num_words=recipe.model.num_words,
    )
    unknown = len(catalogue.vocabulary.categories)
    tokens, content = token_inputs(
        catalogue,
        num_tokens=recipe.ranker_model.num_item_tokens,
        content_size=recipe.ranker_model.content_size,
    )
    return ItemStatics(
        category=torch.from_numpy(np.concatenate([[unknown], catalogue.category])),
        price=torch.from_numpy(np.concatenate([[-1.0], catalogue.price]).astype(np.float32)),
        text=torch.from_numpy(np.concatenate([np.zeros_like(words[:1]), words])),
        has_id=torch.zeros(num_items + 1, dtype=torch.bool),
        tokens=tokens,
        content=content,
        aspects=aspect_vectors(catalogue, recipe.ranker_model.aspects),
    )


def _shapes(
    recipe: Recipe, plan: Plan, vocabulary: Vocabulary, objectives: Sequence[Objective]
) -> tuple[UserEncoding, Dimensions]:
    encoding = UserEncoding(
        history_length=recipe.history_length,
        num_tokens=recipe.num_tokens,
        user_activity=plan.user_activity_names,
        num_categories=len(vocabulary.categories),
        user_category_activity=plan.user_category_activity_names,
        request_keys=recipe.request_keys,
    )
    return encoding, Dimensions(
        history_length=recipe.history_length,
        num_tokens=recipe.num_tokens,
        num_user_features=len(encoding.dense_names),
        num_categories=len(vocabulary.categories),
        num_category_features=len(plan.user_category_activity_names),
        num_item_features=len(plan.item_activity_names),
        objectives=tuple(o.name for o in objectives),
        sources=recipe.sources.names,
        num_request_tokens=len(recipe.request_keys),
    )


def _popular_weights(recipe: Recipe, plan: Plan) -> Tensor:
    names = plan.item_activity_names
    absent = sorted(set(recipe.popular_columns) - set(names))
    if absent:
        raise ConfigurationError(
            f'recipe "{recipe.name}" counts popularity by {absent}, which view item_activity does '
            f"not have (found {', '.join(names)}); change popular_columns or the view"
        )
    return torch.tensor([recipe.popular_columns.get(name, 0.0) for name in names])


def _positions(log: pl.DataFrame) -> dict[str, int]:
    if not {"topic", "partition", "offset"} <= set(log.columns):
        return {}
    latest = (
        log.drop_nulls("offset")
        .group_by("topic", "partition")
        .agg(pl.col("offset").max())
        .sort("topic", "partition")
    )
    return {f"{topic}:{partition}": offset + 1 for topic, partition, offset in latest.iter_rows()}
