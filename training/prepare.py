"""From the event log to tensors: vocabulary, visits and questions, features joined point-in-time.

Everything the models will see is made here, so this is where a leak would come from: each feature
is asked for at a moment before the label it helps to predict, and nothing from ``test_from_ms`` on
is read for training at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.manifest import LoggedFeatures, Objective
from recsys.data.catalogue import Catalogue, build_catalogue
from recsys.data.interactions import Interactions, read_interactions
from recsys.data.splits import TimeSplit, split_by_time
from recsys.data.text import word_buckets
from recsys.errors import ConfigurationError, InputError
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.models.item_table import ItemStatics
from training.checks import (
    check_columns_finite,
    check_feature_source,
    check_objectives,
    check_services,
    check_windows,
)
from training.edges import edges_of
from training.examples import lists, visits
from training.examples.build import Place, temporary_place
from training.examples.identity import identity_of_log
from training.examples.lists import ListShards
from training.examples.stream import VisitShards
from training.item_statics import item_statics
from training.logged_lists import LoggedLists
from training.prepared import Prepared, Sources
from training.progress import Progress
from training.questions import QuestionMaker
from training.recipe_file import check_recipe
from training.recipes import Recipe
from training.run_examples import RunData, check_values, find_or_make, logged_lists
from training.shapes import dimensions_of, encoding_of


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
        catalogue, interactions, split = _read(log, recipe, test_from_ms)
        past = interactions.where(interactions.time_ms < split.test_from_ms)
        check_objectives(past, objectives)
        check_windows(past, split)
    with progress.stage("feature history"):
        # What comes after the split stays in: evaluation labels come from it, and the readers
        # never look past the moment they are asked for.
        rows = open_rows(log, plan)
        users = UserHistory(rows, plan, catalogue.vocabulary)
        items = ItemHistory(rows, plan, catalogue.vocabulary)
    encoding = encoding_of(
        plan, catalogue.vocabulary, history_length=recipe.history_length,
        num_tokens=recipe.num_tokens, request_keys=recipe.request_keys,
    )  # fmt: skip
    run = RunData(
        log=log, log_identity=log_identity or identity_of_log(log), plan=plan, recipe=recipe,
        objectives=objectives, split=split, vocabulary=catalogue.vocabulary, encoding=encoding,
    )  # fmt: skip
    logged: LoggedLists | None = None
    logged_features: LoggedFeatures | None = None
    if recipe.ranker.features == "logged":
        assert exposures is not None  # check_feature_source
        logged, logged_features = logged_lists(run, exposures, users, progress)
    maker = QuestionMaker(past, users, items, encoding, progress)
    place = examples or temporary_place()
    made = find_or_make(run, past, logged, maker, place, progress)
    rounds = ListShards(made.folder, made.named(lists.PREFIX))
    statics = _statics(catalogue, recipe)
    check_columns_finite(statics.price.unsqueeze(1), ("price",), "the catalogue's items")
    check_values(rounds, encoding, plan, objectives)
    edges = partial(
        edges_of, num_items=catalogue.vocabulary.num_items,
        half_life_days=recipe.neighbours.half_life_days,
    )  # fmt: skip
    early = past.where(past.time_ms < split.ranker_from_ms)
    prepared = Prepared(
        recipe=recipe,
        objectives=tuple(objectives),
        dimensions=dimensions_of(
            encoding,
            plan,
            objectives=[objective.name for objective in objectives],
            sources=recipe.sources.names,
            num_request_tokens=len(recipe.request_keys),
        ),
        encoding=encoding,
        split=split,
        statics=statics,
        available=torch.from_numpy(np.concatenate([[False], catalogue.available])),
        first_seen_ms=torch.from_numpy(np.concatenate([[0], catalogue.first_seen_ms])),
        popular_weights=popular_weights,
        visits=VisitShards(made.folder, made.named(visits.PREFIX)),
        early_edges=edges(early, now_ms=split.ranker_from_ms),
        all_edges=edges(past, now_ms=split.test_from_ms),
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


def _read(
    log: pl.DataFrame, recipe: Recipe, test_from_ms: int | None
) -> tuple[Catalogue, Interactions, TimeSplit]:
    """Give the items, all interactions, and where the time of the log is split."""
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
    described = build_catalogue(log, described_until_ms=split.test_from_ms)
    return described, interactions, split


def _statics(catalogue: Catalogue, recipe: Recipe) -> ItemStatics:
    """Give the statics of the items with their words; none has an embedding of its own yet."""
    return item_statics(
        catalogue,
        num_item_tokens=recipe.ranker_model.num_item_tokens,
        content_size=recipe.ranker_model.content_size,
        aspects=recipe.ranker_model.aspects,
        has_id=np.zeros(catalogue.vocabulary.num_items + 1, dtype=np.bool_),
        words=word_buckets(
            catalogue.text,
            num_buckets=recipe.model.num_text_buckets,
            num_words=recipe.model.num_words,
        ),
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
