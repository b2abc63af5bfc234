"""From the event log to tensors: vocabulary, visits and questions, features joined point-in-time.

Everything the models will see is made here, so this is where a leak would come from: each feature
is asked for at a moment before the label it helps to predict, and nothing from ``test_from_ms`` on
is read for training at all.

Axes: ``E`` visits or lists, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.manifest import Objective
from recsys.data.catalogue import Catalogue, build_catalogue
from recsys.data.examples import labels_after, question_moments, visits_of
from recsys.data.impressions import LabelRule, read_shown_lists
from recsys.data.interactions import Interactions, read_interactions
from recsys.data.splits import TimeSplit, split_by_time
from recsys.data.text import word_buckets
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigurationError, InputError
from recsys.features.batch import Int64s, Ragged, UserFeatures
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan
from recsys.models.encode import UserEncoding, encode_users
from recsys.models.item_table import ItemStatics
from recsys.models.signature import Dimensions
from training.progress import Progress
from training.recipes import Recipe

Context = dict[str, Tensor]
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class RaggedTensor:
    """Rows of unequal length."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, ragged: Ragged) -> RaggedTensor:
        """Take over a NumPy one."""
        return cls(
            values=torch.from_numpy(np.ascontiguousarray(ragged.values)).long(),
            offsets=torch.from_numpy(ragged.offsets),
        )

    def padded(self, rows: Tensor) -> Tensor:
        """Give ``[len(rows), longest]`` values, 0 pads."""
        begin = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begin
        place = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = place < lengths.unsqueeze(1)
        source = (begin.unsqueeze(1) + place).clamp(max=max(len(self.values) - 1, 0))
        return torch.where(mask, self.values[source], 0)


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The user-item matrix as entries, sorted by user: what neighbours are fitted on."""

    user: Tensor
    item: Tensor
    weight: Tensor
    num_users: int
    counts: Tensor
    """``[N + 1]`` interactions of each item."""


@dataclass(frozen=True, kw_only=True)
class QuestionRound:
    """Questions that share one state of the items' moving features."""

    as_of_ms: int
    activity: Tensor
    """``[N + 1, Fi]``."""
    context: Context
    """``[E, ...]`` user tensors."""
    labels: tuple[RaggedTensor, ...]
    """One for each objective: item rows that were taken. Empty when ``shown`` is there."""
    weight: Tensor
    """``[E]``: how many users each question stands for."""
    shown: Tensor | None = None
    """``[E, C]`` shown items; None: candidates are to be retrieved."""
    shown_label: Tensor | None = None
    """``[E, C, O]``."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that fitting needs; a file of it travels to the workers."""

    recipe: Recipe
    objectives: tuple[Objective, ...]
    dimensions: Dimensions
    encoding: UserEncoding
    split: TimeSplit
    statics: ItemStatics
    available: Tensor
    """``[N + 1]`` bool: may be shown, by the log's latest word."""
    first_seen_ms: Tensor
    """``[N + 1]`` int64: before this an item was no candidate."""
    popular_weights: Tensor
    visit_context: Context
    visit_positives: RaggedTensor
    visit_is_early: Tensor
    """``[E]`` bool: before the ranker's part begins."""
    early_edges: Edges
    all_edges: Edges
    rounds: tuple[QuestionRound, ...]
    activity: Tensor
    """``[N + 1, Fi]`` at the end of training."""

    def save(self, path: Path) -> None:
        """Write everything to one file."""
        torch.save(self, path)

    @staticmethod
    def load(path: Path) -> Prepared:
        """Read what ``save`` wrote (our own file: it may hold any class of ours)."""
        prepared = torch.load(path, weights_only=False)
        assert isinstance(prepared, Prepared)
        return prepared


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What stays with the driver: for evaluation and export."""

    catalogue: Catalogue
    interactions: Interactions
    users: UserHistory
    items: ItemHistory
    num_events: int
    log_positions: dict[str, int]


def prepare(
    log: pl.DataFrame,
    plan: Plan,
    recipe: Recipe,
    objectives: Sequence[Objective],
    *,
    test_from_ms: int | None,
    progress: Progress,
) -> tuple[Prepared, Sources]:
    """Make the tensors of a run.

    Raises:
        InputError: when the log is empty or too short, or an objective has no positive before the
            test.
        ConfigurationError: when the recipe wants a feature the plan does not have.
    """
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
        past = interactions.where(interactions.time_ms < split.test_from_ms)
        _check_objectives(past, objectives)
    with progress.stage("feature history"):
        # What comes after the split stays in: evaluation labels come from it, and the readers
        # never look past the moment they are asked for.
        rows = open_rows(log, plan)
        users = UserHistory(rows, plan, catalogue.vocabulary)
        items = ItemHistory(rows, plan, catalogue.vocabulary)
    encoding, dimensions = _shapes(recipe, plan, catalogue.vocabulary, objectives)
    rng = np.random.default_rng(recipe.seed)
    maker = _Maker(past, users, items, encoding, progress)
    visits = visits_of(past, pause_ms=recipe.towers.pause_ms)
    if len(visits) > recipe.towers.max_visits:
        latest = np.sort(np.argsort(-visits.moment_ms, kind="stable")[: recipe.towers.max_visits])
        keep = np.zeros(len(visits), dtype=np.bool_)
        keep[latest] = True
        visits = visits.where(keep)
    context = maker.context(visits.user, visits.moment_ms, "visits")
    has_impressions = bool((log["kind"] == "impression").any())
    if has_impressions:
        train_log = log.filter(pl.col("event_time_ms") < split.test_from_ms)
        rounds = maker.shown_rounds(train_log, catalogue.vocabulary, recipe, objectives, split, rng)
    else:
        rounds = maker.window_rounds(recipe, objectives, split, rng)
    if not rounds:
        raise InputError(
            "the ranker's part of the log has no labelled list; give a later --test-from or "
            "replay more history"
        )
    all_edges = _edges(past, recipe, catalogue.vocabulary.num_items, split.test_from_ms)
    early = past.where(past.time_ms < split.ranker_from_ms)
    prepared = Prepared(
        recipe=recipe,
        objectives=tuple(objectives),
        dimensions=dimensions,
        encoding=encoding,
        split=split,
        statics=_statics(catalogue, recipe),
        available=torch.from_numpy(np.concatenate([[False], catalogue.available])),
        first_seen_ms=torch.from_numpy(np.concatenate([[0], catalogue.first_seen_ms])),
        popular_weights=popular_weights,
        visit_context=context,
        visit_positives=RaggedTensor.of(visits.positives),
        visit_is_early=torch.from_numpy(visits.moment_ms < split.ranker_from_ms),
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
        log_positions=_positions(log),
    )
    return prepared, sources


class _Maker:
    """Point-in-time joins of one run."""

    def __init__(
        self,
        past: Interactions,
        users: UserHistory,
        items: ItemHistory,
        encoding: UserEncoding,
        progress: Progress,
    ) -> None:
        self._past = past
        self._users = users
        self._items = items
        self._encoding = encoding
        self._progress = progress
        self._ids = np.array(past.user_ids, dtype=object)

    def context(self, user: Int64s, moments_ms: Int64s, what: str) -> Context:
        """Give the user tensors of user codes at moments."""
        return encoded(
            self._users, self._ids[user], moments_ms, self._encoding, self._progress, what
        )

    def activity(self, moment_ms: int) -> Tensor:
        """Give ``[N + 1, Fi]`` item features at a moment."""
        found = self._items.activity_at(None, moment_ms).activity
        return torch.from_numpy(np.concatenate([np.zeros_like(found[:1]), found]))

    def window_rounds(
        self,
        recipe: Recipe,
        objectives: Sequence[Objective],
        split: TimeSplit,
        rng: np.random.Generator,
    ) -> tuple[QuestionRound, ...]:
        """Give rounds of "what will this user take in the window after this moment?"."""
        config = recipe.ranker
        window_ms = min(config.window_ms, int((split.test_from_ms - split.ranker_from_ms) * 0.6))
        moments = question_moments(
            from_ms=split.ranker_from_ms, until_ms=split.test_from_ms,
            every_ms=min(config.every_ms, max(window_ms // 2, 1)), window_ms=window_ms,
        )  # fmt: skip
        rounds = []
        for moment_ms in moments.tolist():
            known = np.unique(self._past.user[self._past.time_ms < moment_ms])
            found = [
                labels_after(
                    self._past.where(self._past.of_type(o.interaction, min_value=o.min_value)),
                    from_ms=moment_ms,
                    until_ms=moment_ms + window_ms,
                )
                for o in objectives
            ]
            active = np.intersect1d(found[0][0], known)
            limit = max(config.max_lists // (2 * len(moments)), 1)
            chosen = _draw(active, limit, rng)
            idle = np.setdiff1d(known, active)
            some_idle = _draw(idle, min(config.idle_lists, limit), rng)
            asked = np.concatenate([chosen, some_idle])
            if len(chosen) == 0:
                continue
            weight = np.concatenate(
                [
                    np.full(len(chosen), len(active) / len(chosen)),
                    np.full(len(some_idle), len(idle) / max(len(some_idle), 1)),
                ]
            )
            context = self.context(
                asked, np.full(len(asked), moment_ms - 1, dtype=np.int64), "questions"
            )
            rounds.append(
                QuestionRound(
                    as_of_ms=moment_ms - 1,
                    activity=self.activity(moment_ms - 1),
                    context=context,
                    labels=tuple(RaggedTensor.of(_of_users(f, asked)) for f in found),
                    weight=torch.from_numpy(weight).float(),
                )
            )
        return tuple(rounds)

    def shown_rounds(
        self,
        log: pl.DataFrame,
        vocabulary: Vocabulary,
        recipe: Recipe,
        objectives: Sequence[Objective],
        split: TimeSplit,
        rng: np.random.Generator,
    ) -> tuple[QuestionRound, ...]:
        """Give the lists that were shown in the ranker's part, with what came of them."""
        config = recipe.ranker
        rules = [
            LabelRule(objective=o.name, interaction=o.interaction, min_value=o.min_value)
            for o in objectives
        ]
        recent = log.filter(pl.col("event_time_ms") >= split.ranker_from_ms)
        lists = read_shown_lists(recent, vocabulary, rules, window_ms=config.attribution_ms)
        complete = lists.time_ms + config.attribution_ms < split.test_from_ms
        if not complete.any():
            complete[:] = True
        chosen = _draw(np.flatnonzero(complete & (lists.item > 0).any(1)), config.max_lists, rng)
        # Short logs get a finer grid: at least eight states of the items.
        span = split.test_from_ms - split.ranker_from_ms
        grid_ms = max(min(config.refresh_ms, span // 8), 1)
        cell = (lists.time_ms[chosen] - split.ranker_from_ms) // grid_ms
        rounds = []
        for value in np.unique(cell).tolist():
            rows = chosen[cell == value]
            as_of_ms = (
                min(split.ranker_from_ms + value * grid_ms, int(lists.time_ms[rows].min())) - 1
            )
            context = encoded(
                self._users, lists.user_id[rows], lists.time_ms[rows] - 1, self._encoding,
                self._progress, "lists",
            )  # fmt: skip
            rounds.append(
                QuestionRound(
                    as_of_ms=as_of_ms,
                    activity=self.activity(as_of_ms),
                    context=context,
                    labels=(),
                    weight=torch.ones(len(rows)),
                    shown=torch.from_numpy(lists.item[rows]),
                    shown_label=torch.from_numpy(lists.label[rows]),
                )
            )
        return tuple(rounds)


def encoded(
    users: UserHistory,
    user_ids: Sequence[str] | np.ndarray,
    moments_ms: Int64s,
    encoding: UserEncoding,
    progress: Progress,
    what: str,
) -> Context:
    """Join and encode users at moments, in chunks."""
    parts: list[dict[str, np.ndarray]] = []
    starts = range(0, max(len(moments_ms), 1), _CHUNK)
    for begin in progress.track(starts, f"features of {what}"):
        rows = slice(begin, begin + _CHUNK)
        found: UserFeatures = users.features_at(list(user_ids[rows]), moments_ms[rows])
        parts.append(encode_users(found, encoding))
    return {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]
    }


def _draw(rows: Int64s, limit: int, rng: np.random.Generator) -> Int64s:
    if len(rows) <= limit:
        return rows
    return np.sort(rng.choice(rows, size=limit, replace=False))


def _of_users(found: tuple[Int64s, Ragged], wanted: Int64s) -> Ragged:
    """Give the label rows of ``wanted`` users, empty for those without."""
    users, ragged = found
    place = np.searchsorted(users, wanted)
    there = (place < len(users)) & (users[np.minimum(place, len(users) - 1)] == wanted) if len(
        users
    ) else np.zeros(len(wanted), dtype=np.bool_)  # fmt: skip
    place = np.where(there, place, 0)
    begin = np.where(there, ragged.offsets[place], 0)
    end = np.where(there, ragged.offsets[np.minimum(place + 1, len(ragged.offsets) - 1)], 0)
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    return Ragged(ragged.values[index], offsets)


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
    return ItemStatics(
        category=torch.from_numpy(np.concatenate([[unknown], catalogue.category])),
        price=torch.from_numpy(np.concatenate([[-1.0], catalogue.price]).astype(np.float32)),
        text=torch.from_numpy(np.concatenate([np.zeros_like(words[:1]), words])),
        has_id=torch.zeros(num_items + 1, dtype=torch.bool),
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


def _check_objectives(past: Interactions, objectives: Sequence[Objective]) -> None:
    if not objectives:
        raise ConfigurationError("wanted at least one objective in the mapping, found none")
    for objective in objectives:
        rows = past.of_type(objective.interaction, min_value=objective.min_value)
        if not rows.any():
            raise InputError(
                f'objective "{objective.name}": no "{objective.interaction}" event before the test '
                f"(found types {', '.join(past.types) or 'none'}); correct [[objectives]] in the "
                "mapping or replay more history"
            )


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
