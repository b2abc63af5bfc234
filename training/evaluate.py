"""The bundle's own answers judged on the future, beside the baselines, in both views.

Protocol: users of the test period who acted before it; everything they take in the test period is
relevant (``repeats_allowed``), or only what they had not before, with candidates leaving those out
(``new_items_only``); full ranking, no sampled negatives. Items nobody had before the test are
dropped from the relevant sets; the figure that keeps them is reported beside it. Features are those
of the last millisecond before the test: nothing of the test is seen.

What is judged is the object the model server runs, loaded from the exported files, through the same
``answer`` that serves.

Axes: ``B`` users, ``K`` places, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.clock import DAY_MS
from recsys.data.examples import labels_after
from recsys.data.interactions import Interactions
from recsys.evaluation.auc import auc
from recsys.evaluation.calibration import expected_calibration_error
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.log_loss import log_loss
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.report import ListQuality, judge_lists
from recsys.features.batch import Int32s, Int64s, Ragged
from recsys.models.serving_model import ServingModel
from training.baselines import baselines
from training.prepared import Context, Prepared, Sources
from training.progress import Progress
from training.questions import encoded

View = str
REPEATS, NEW = "repeats_allowed", "new_items_only"
_CHUNK = 128
_MAX_CALIBRATION_USERS = 1_000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of an evaluation."""

    tables: dict[View, dict[str, ListQuality]]
    """By view, by recommender; ``served`` is the bundle."""
    metrics: dict[str, Any]
    """The same and more as plain numbers, for the manifest."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """Users of one view with what is relevant to them."""

    relevant: Ragged
    relevant_with_unseen: Ragged
    banned: Ragged
    """Items that may not be listed for each user (those had before, in the new-items view)."""


def evaluate(
    model: ServingModel,
    prepared: Prepared,
    sources: Sources,
    *,
    k: int,
    views: Sequence[View],
    relevant_type: str,
    progress: Progress,
) -> Verdict:
    """Judge ``model`` and the baselines; an empty test gives no tables and says so."""
    split, num_items = prepared.split, model.num_items
    interactions = sources.interactions
    past = interactions.where(interactions.time_ms < split.test_from_ms)
    of_type = interactions.where(interactions.of_type(relevant_type))
    users, taken = labels_after(of_type, from_ms=split.test_from_ms, until_ms=split.end_ms + 1)
    known = np.isin(users, np.unique(past.user))
    users, taken = users[known], _rows(taken, np.flatnonzero(known))
    if len(users) == 0:
        return Verdict(tables={}, metrics={"views": {}, "note": "no known user in the test period"})
    counts = np.bincount(past.item, minlength=num_items + 1)
    had = _had(past, users)
    moments = np.full(len(users), split.test_from_ms - 1, dtype=np.int64)
    ids = np.array(interactions.user_ids, dtype=object)[users]
    context = encoded(sources.users, ids, moments, prepared.encoding, progress, "test users")
    later = np.flatnonzero(prepared.first_seen_ms.numpy() >= split.test_from_ms).astype(np.int32)
    rivals = baselines(past, num_items=num_items, now_ms=split.test_from_ms)

    tables: dict[View, dict[str, ListQuality]] = {}
    metrics: dict[str, Any] = {"k": k, "num_test_users": len(users), "views": {}}
    for view in views:
        question = _question(view, taken, had, counts, num_items)
        exclude = _with_all(question.banned, later)
        judged = np.diff(question.relevant.offsets) > 0
        lists = {
            "served": served_lists(
                model, context, exclude, exclude_history=view == NEW, k=k,
                num_candidates=prepared.recipe.num_candidates, progress=progress, what=view,
            )
        }  # fmt: skip
        for name, scores in rivals.items():
            if view == NEW and name == "personal_frequency":
                continue  # it knows nothing but what this view leaves out
            lists[name] = _dense_lists(scores, users, question.banned, counts, k)
        tables[view] = {
            name: judge_lists(
                ranked[judged], _rows(question.relevant, np.flatnonzero(judged)), k=k,
                popularity=counts, rng=np.random.default_rng(prepared.recipe.seed),
            )
            for name, ranked in lists.items()
        }  # fmt: skip
        metrics["views"][view] = {name: q.as_json() for name, q in tables[view].items()}
        for name, ranked in lists.items():
            metrics["views"][view][name] |= _keeping_unseen(ranked, question, k)
    metrics["probabilities"] = _probabilities(model, prepared, sources, past, progress)
    return Verdict(tables=tables, metrics=metrics)


def served_lists(
    model: ServingModel,
    context: Mapping[str, Tensor],
    exclude: Ragged,
    *,
    exclude_history: bool,
    k: int,
    num_candidates: int,
    progress: Progress,
    what: str,
) -> Int32s:
    """Give ``[B, k]`` items as a request would get them, 0 pads."""
    from recsys.inference.compute import answer

    num_users = len(context["history_index"])
    out = np.zeros((num_users, k), dtype=np.int32)
    # Users with histories of like length go together: the sources skip common padding.
    order = (context["history_index"] != 0).sum(dim=1).argsort(stable=True)
    for rows in progress.track(order.split(_CHUNK), f"answers ({what})"):
        own = [exclude.row(row) for row in rows.tolist()]
        banned = np.zeros((len(own), max(1, *(len(items) for items in own))), dtype=np.int32)
        for row, items in enumerate(own):
            banned[row, : len(items)] = items
        answered = answer(
            model,
            {name: tensor[rows] for name, tensor in context.items()}
            | {
                "exclude_index": torch.from_numpy(banned),
                "exclude_history": torch.full((len(own), 1), exclude_history),
                "k": torch.full((len(own), 1), k, dtype=torch.int32),
            },
            num_candidates=num_candidates,
        )["item_index"]
        out[rows.numpy(), : answered.shape[1]] = answered.cpu().numpy()
    return out


def _dense_lists(
    scores: Callable[[Int64s], Tensor], users: Int64s, banned: Ragged, counts: Int64s, k: int
) -> Int32s:
    """Rank all items somebody had before the test by a baseline's scores."""
    out = np.zeros((len(users), k), dtype=np.int32)
    unseen = torch.from_numpy(counts == 0)
    for begin in range(0, len(users), _CHUNK):
        found = scores(users[begin : begin + _CHUNK]).masked_fill(unseen, -torch.inf)
        for row in range(len(found)):
            found[row, torch.from_numpy(banned.row(begin + row).astype(np.int64))] = -torch.inf
        value, index = found.topk(min(k, found.shape[1]), dim=1)
        index = index.masked_fill(value == -torch.inf, 0)
        out[begin : begin + _CHUNK, : index.shape[1]] = index.numpy()
    return out


def _question(view: View, taken: Ragged, had: Ragged, counts: Int64s, num_items: int) -> _Question:
    span = num_items + 1
    keys = _keys(taken, span)
    banned = had if view == NEW else _nothing(len(taken))
    keys = np.setdiff1d(keys, _keys(banned, span), assume_unique=True)
    seen = keys[counts[keys % span] > 0]
    return _Question(
        relevant=_ragged(seen, span, len(taken)),
        relevant_with_unseen=_ragged(keys, span, len(taken)),
        banned=banned,
    )


def _keeping_unseen(ranked: Int32s, question: _Question, k: int) -> dict[str, float]:
    relevant = question.relevant_with_unseen
    hits, truth = hit_table(ranked, relevant), num_relevant(relevant)
    judged = truth > 0
    return {
        f"recall@{k}_keeping_unseen": round(float(recall_at_k(hits, truth, k=k)[judged].mean()), 5),
        f"ndcg@{k}_keeping_unseen": round(float(ndcg_at_k(hits, truth, k=k)[judged].mean()), 5),
    }


def _probabilities(
    model: ServingModel,
    prepared: Prepared,
    sources: Sources,
    past: Interactions,
    progress: Progress,
) -> dict[str, Any]:
    """Compare each objective's probabilities with what came: over all candidates of known users.

    Only for data without impressions, where a probability speaks of the window after the request.
    """
    split = prepared.split
    window_ms = min(prepared.recipe.ranker.window_ms, split.end_ms + 1 - split.test_from_ms)
    if any(r.shown is not None for r in prepared.rounds):
        return {}
    rng = np.random.default_rng(prepared.recipe.seed)
    users = np.unique(past.user)
    if len(users) > _MAX_CALIBRATION_USERS:
        users = np.sort(rng.choice(users, size=_MAX_CALIBRATION_USERS, replace=False))
    ids = np.array(past.user_ids, dtype=object)[users]
    moments = np.full(len(users), split.test_from_ms - 1, dtype=np.int64)
    context = encoded(sources.users, ids, moments, prepared.encoding, progress, "known users")
    index, probability = _candidates(model, prepared, context)
    span = model.num_items + 1
    wanted = users[:, None] * span + index
    out: dict[str, Any] = {"window_days": round(window_ms / DAY_MS, 2)}
    for column, objective in enumerate(prepared.objectives):
        mask = sources.interactions.of_type(objective.interaction, min_value=objective.min_value)
        found_users, found = labels_after(
            sources.interactions.where(mask),
            from_ms=split.test_from_ms, until_ms=split.test_from_ms + window_ms,
        )  # fmt: skip
        owner = np.repeat(found_users, np.diff(found.offsets))
        label = np.isin(wanted, owner * span + found.values)[index != 0]
        p = probability[:, :, column][index != 0]
        out[objective.name] = {
            "expected_calibration_error": round(expected_calibration_error(p, label), 5),
            "mean_probability": round(float(p.mean()), 5),
            "observed_rate": round(float(label.mean()), 5),
            "log_loss": round(log_loss(p, label), 5),
            "auc": round(auc(p, label), 5),
        }
    return out


def _candidates(
    model: ServingModel, prepared: Prepared, context: Context
) -> tuple[Int64s, np.ndarray]:
    indexes, probabilities = [], []
    for rows in torch.arange(len(context["history_index"])).split(_CHUNK):
        part = {name: tensor[rows] for name, tensor in context.items()}
        candidates = model.retrieve(
            part,
            num_candidates=min(prepared.recipe.num_candidates, model.num_items),
            exclude_index=torch.zeros(len(rows), 1, dtype=torch.int32),
            exclude_history=torch.zeros(len(rows), 1, dtype=torch.bool),
        )
        indexes.append(candidates.item_index.cpu().numpy().astype(np.int64))
        probabilities.append(model.rank(part, candidates).objective_score.cpu().numpy())
    return np.concatenate(indexes), np.concatenate(probabilities)


def _had(past: Interactions, users: Int64s) -> Ragged:
    """Give the distinct items each of ``users`` (ascending) had."""
    span = int(past.item.max()) + 1
    mask = np.isin(past.user, users)
    row = np.searchsorted(users, past.user[mask])
    return _ragged(np.unique(row * span + past.item[mask]), span, len(users))


def _keys(ragged: Ragged, span: int) -> Int64s:
    rows = np.repeat(np.arange(len(ragged)), np.diff(ragged.offsets))
    return rows * span + ragged.values.astype(np.int64)


def _ragged(keys: Int64s, span: int, num_rows: int) -> Ragged:
    lengths = np.bincount(keys // span, minlength=num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged((keys % span).astype(np.int32), offsets)


def _nothing(num_rows: int) -> Ragged:
    return Ragged(np.zeros(0, dtype=np.int32), np.zeros(num_rows + 1, dtype=np.int64))


def _rows(ragged: Ragged, rows: Int64s) -> Ragged:
    lengths = np.diff(ragged.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(offsets[-1]) + np.repeat(ragged.offsets[:-1][rows] - offsets[:-1], lengths)
    return Ragged(ragged.values[place], offsets)


def _with_all(ragged: Ragged, extra: Int32s) -> Ragged:
    """Append the same items to every row."""
    if len(extra) == 0:
        return ragged
    rows = [np.concatenate([ragged.row(b).astype(np.int32), extra]) for b in range(len(ragged))]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate(rows), offsets)
