"""Candidate and live bundle on the same users, the same future and the same lists of known items.

Each bundle answers with its own vocabulary, its own encoding and its own feature plan, as it would
if it were live at the last millisecond before the test; items it does not know are misses.

Axes: ``B`` users, ``K`` places.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.data.examples import labels_after
from recsys.data.interactions import Interactions
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.evaluation.bootstrap import bootstrap_mean
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.features.batch import Int32s, Int64s, Ragged
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import PLAN_FILE
from recsys.features.plan import load as load_plan
from training.pipeline.gate import Paired
from training.prepared import Prepared, Sources
from training.progress import Progress
from training.questions import encoded
from training.report.contender import served_lists
from training.report.protocol import NEW

_METRICS = {"recall": recall_at_k, "ndcg": ndcg_at_k}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both are asked, in terms of the candidate's vocabulary."""

    users: Int64s
    """Codes of those who acted before the test and in it, ascending."""
    user_ids: np.ndarray
    taken: Ragged
    """What each took in the test, among items somebody had before it."""
    had: Ragged
    """What each had before."""
    later: Int32s
    """Items nobody could have been shown before the test."""
    moment_ms: int


def compare(
    candidate: Path,
    champion: Path,
    log: pl.DataFrame,
    prepared: Prepared,
    sources: Sources,
    *,
    views: tuple[str, ...],
    k: int,
    relevant_type: str,
    metrics: tuple[str, ...],
    progress: Progress,
) -> list[Paired]:
    """Give candidate minus champion by view and metric, with paired intervals; none without users.

    Args:
        candidate: Folder of a bundle.
        champion: Folder of the live one.
        log: All events, those of the test too.
        prepared: Of the candidate: says where the test begins.
        sources: Of the candidate.
        views: ``repeats_allowed``, ``new_items_only``.
        k: Places looked at.
        relevant_type: Interaction that counts.
        metrics: Of ``recall`` and ``ndcg``.
        progress: Shows what is done.
    """
    task = _task(prepared, sources, relevant_type)
    if len(task.users) == 0:
        return []
    vocabulary = sources.catalogue.vocabulary
    if read_manifest(champion).lineage.data_until_ms > prepared.split.test_from_ms:
        logger.warning("the champion has learned from part of this test: it is favoured")
    found: list[Paired] = []
    for view in views:
        relevant = _minus(task.taken, task.had) if view == NEW else task.taken
        truth = num_relevant(relevant)
        values: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
        for folder in (candidate, champion):
            ranked = _lists(folder, log, task, vocabulary, view=view, k=k, progress=progress)
            hits = hit_table(ranked, relevant)
            for name in metrics:
                values[name].append(np.asarray(_METRICS[name](hits, truth, k=k)))
        for name in metrics:
            ours, theirs = (v[truth > 0] for v in values[name])
            if len(ours) == 0:
                continue
            rng = np.random.default_rng(prepared.recipe.seed)
            interval = bootstrap_mean(ours - theirs, rng=rng)
            found.append(
                Paired(
                    view=view, metric=f"{name}@{k}", champion=round(float(theirs.mean()), 6),
                    difference=round(interval.mean, 6), low=round(interval.low, 6),
                    high=round(interval.high, 6), num_users=len(ours),
                )
            )  # fmt: skip
    return found


def _task(prepared: Prepared, sources: Sources, relevant_type: str) -> Task:
    split, every = prepared.split, sources.interactions
    past = every.where(every.time_ms < split.test_from_ms)
    of_type = every.where(every.of_type(relevant_type))
    users, taken = labels_after(of_type, from_ms=split.test_from_ms, until_ms=split.end_ms + 1)
    known = np.flatnonzero(np.isin(users, np.unique(past.user)))
    seen = np.zeros(prepared.available.shape[0], dtype=np.bool_)
    seen[past.item] = True
    rows = [row[seen[row]] for row in (taken.row(int(b)) for b in known)]
    users = users[known]
    return Task(
        users=users,
        user_ids=np.array(every.user_ids, dtype=object)[users],
        taken=_ragged(rows),
        had=_ragged([_had(past, int(user)) for user in users]),
        later=np.flatnonzero(prepared.first_seen_ms.numpy() >= split.test_from_ms).astype(np.int32),
        moment_ms=split.test_from_ms - 1,
    )


def _had(past: Interactions, user: int) -> np.ndarray:
    begin, end = np.searchsorted(past.user, [user, user + 1])
    return np.unique(past.item[begin:end])


def _lists(
    folder: Path,
    log: pl.DataFrame,
    task: Task,
    vocabulary: Vocabulary,
    *,
    view: str,
    k: int,
    progress: Progress,
) -> Int32s:
    """Give ``[B, K]`` rows of ``vocabulary``, as the bundle in ``folder`` would list them."""
    manifest = read_manifest(folder)
    model = load_serving_model(folder)
    own = load_vocabulary(folder / VOCABULARY_FILE)
    plan = load_plan(folder / PLAN_FILE)
    rows = open_rows(log, plan)
    activity = ItemHistory(rows, plan, own).activity_at(None, task.moment_ms).activity
    model.set_item_activity(
        torch.from_numpy(np.concatenate([np.zeros_like(activity[:1]), activity])), task.moment_ms
    )
    moments = np.full(len(task.users), task.moment_ms, dtype=np.int64)
    context = encoded(
        UserHistory(rows, plan, own), task.user_ids, moments, manifest.encoding, progress,
        f"{view} of {manifest.bundle_id}",
    )  # fmt: skip
    to_own = np.zeros(vocabulary.num_items + 1, dtype=np.int32)
    to_own[1:] = own.indexes(vocabulary.item_ids)
    from_own = np.zeros(own.num_items + 1, dtype=np.int32)
    from_own[1:] = vocabulary.indexes(own.item_ids)
    excluded = [
        to_own[np.concatenate([task.had.row(b) if view == NEW else task.later[:0], task.later])]
        for b in range(len(task.users))
    ]
    banned = _ragged([row[row > 0] for row in excluded])
    listed = served_lists(
        model, context, banned, exclude_history=view == NEW, k=k,
        num_candidates=manifest.num_candidates, progress=progress, what=view,
    )  # fmt: skip
    ranked: Int32s = from_own[listed]
    return ranked


def _minus(taken: Ragged, had: Ragged) -> Ragged:
    return _ragged([np.setdiff1d(taken.row(b), had.row(b)) for b in range(len(taken))])


def _ragged(rows: list[np.ndarray]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.concatenate(rows) if rows else np.zeros(0)
    return Ragged(values.astype(np.int32), offsets)
