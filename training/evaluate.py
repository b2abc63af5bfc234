"""The bundle's own answers judged on the future, beside the baselines, in both views.

The protocol is ``report/protocol.py``'s: full ranking, no sampled negatives, features and items as
of the last millisecond before the test. What is judged is the object the model server runs, loaded
from the exported files, through the same ``answer`` that serves.

Axes: ``B`` users, ``K`` places, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from recsys.data.catalogue import Catalogue
from recsys.evaluation.full_ranking import top_items
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.report import ItemFacts, ListQuality, judge_lists
from recsys.features.batch import Int32s, Int64s
from recsys.models.serving_model import ServingModel
from training.baselines import Baseline, baselines
from training.prepared import Context, Prepared, Sources
from training.progress import Progress
from training.report.contender import Contender
from training.report.probabilities import Probabilities, of_candidates, of_shown_lists
from training.report.protocol import NEW, HeldOut, Question, Terms, View, hold_out, rows_of
from training.report.segments import as_metrics, divisions, judge_segments

SERVED = "served"
"""The row of the bundle among the recommenders."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Everything a report is made of: lists and truth, user by user."""

    held_out: HeldOut
    catalogue: Catalogue
    items: ItemFacts
    k: int
    seed: int
    questions: dict[View, Question]
    lists: dict[View, dict[str, Int32s]]
    """``[B, k]`` by view and recommender, in rows of the log's vocabulary; all users of the
    ``held_out``, also those who are new."""
    probabilities: list[Probabilities]
    context: Context
    """``[B, ...]`` what the model server would be told of them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of an evaluation."""

    tables: dict[View, dict[str, ListQuality]]
    """By view, by recommender; ``served`` is the bundle. Over known users."""
    metrics: dict[str, Any]
    """The same and more as plain numbers, for the manifest."""
    judged: Judged | None = field(default=None, repr=False)
    """None when the test period has nobody to judge."""


def evaluate(
    model: ServingModel,
    prepared: Prepared,
    sources: Sources,
    *,
    k: int,
    views: Sequence[View],
    relevant_type: str,
    progress: Progress,
    log: pl.DataFrame | None = None,
) -> Verdict:
    """Judge the ``model`` of a training run and the baselines on the run's own test.

    Without the ``log`` there are no segments by attribute and, where it has shown lists, no
    probabilities. An empty test gives no tables and says so.
    """
    split, recipe, catalogue = prepared.split, prepared.recipe, sources.catalogue
    held_out = hold_out(
        sources.interactions, catalogue.vocabulary, prepared.first_seen_ms.numpy(),
        test_from_ms=split.test_from_ms, end_ms=split.end_ms, relevant_type=relevant_type,
        seed=recipe.seed,
    )  # fmt: skip
    contender = Contender(
        name=SERVED, model=model, vocabulary=catalogue.vocabulary, users=sources.users,
        items=sources.items, encoding=prepared.encoding, objectives=prepared.objectives,
        num_candidates=recipe.num_candidates,
    )  # fmt: skip
    terms = Terms(
        views=tuple(views), k=k, seed=recipe.seed, window_ms=recipe.ranker.window_ms,
        attribution_ms=recipe.ranker.attribution_ms,
    )  # fmt: skip
    has_lists = any(r.shown is not None for r in prepared.rounds)
    return judge(
        contender, held_out, catalogue, terms, log=log, has_lists=has_lists, progress=progress
    )


def judge(
    contender: Contender,
    held_out: HeldOut,
    catalogue: Catalogue,
    terms: Terms,
    *,
    log: pl.DataFrame | None,
    has_lists: bool,
    progress: Progress,
) -> Verdict:
    """Judge a contender and the baselines on one test set."""
    k = terms.k
    known = np.flatnonzero(held_out.is_known)
    if len(known) == 0:
        return Verdict(tables={}, metrics={"views": {}, "note": "no known user in the test period"})
    counts, num_items = held_out.counts, held_out.vocabulary.num_items
    contender.at(held_out, catalogue)
    category = np.where(catalogue.category == len(catalogue.vocabulary.categories), -1,
                        catalogue.category)  # fmt: skip
    items = ItemFacts(
        popularity=counts,
        category=np.concatenate([[-1], category]),
        vectors=contender.vectors_in(held_out.vocabulary),
    )
    context = contender.contexts(
        held_out.user_ids, held_out.moments_ms, progress, "test users"
    )  # fmt: skip
    rivals = baselines(held_out.past, num_items=num_items, now_ms=held_out.test_from_ms)
    tables: dict[View, dict[str, ListQuality]] = {}
    every_list: dict[View, dict[str, Int32s]] = {}
    questions: dict[View, Question] = {}
    metrics: dict[str, Any] = {"k": k, "num_test_users": len(known), "views": {}}
    if held_out.num_left_out:
        metrics["num_users_left_out"] = held_out.num_left_out
    for view in terms.views:
        question = questions[view] = held_out.question(view)
        lists = every_list[view] = _lists(
            contender, held_out, question, context, rivals, view=view, k=k, progress=progress
        )
        judged = known[num_relevant(question.relevant)[known] > 0]
        tables[view] = {
            name: judge_lists(
                ranked[judged], rows_of(question.relevant, judged), k=k, items=items,
                rng=np.random.default_rng(terms.seed), profiles=rows_of(held_out.had, judged),
            )
            for name, ranked in lists.items()
        }  # fmt: skip
        metrics["views"][view] = {name: q.as_json() for name, q in tables[view].items()}
        for name, ranked in lists.items():
            metrics["views"][view][name] |= _keeping_unseen(ranked, question, known, k)
    segments = judge_segments(
        held_out, questions, {view: lists[SERVED] for view, lists in every_list.items()}, None,
        divisions(held_out, catalogue, log), k=k, seed=terms.seed,
    )  # fmt: skip
    metrics["segments"] = as_metrics(list(segments), k=k)
    probabilities, about = _probabilities(contender, held_out, terms, log, has_lists, progress)
    metrics["probabilities"] = about | {p.objective: p.as_json() for p in probabilities}
    return Verdict(
        tables=tables,
        metrics=metrics,
        judged=Judged(
            held_out=held_out, catalogue=catalogue, items=items, k=k, seed=terms.seed,
            questions=questions, lists=every_list, probabilities=probabilities,
            context=context,
        ),
    )  # fmt: skip


def _lists(
    contender: Contender,
    held_out: HeldOut,
    question: Question,
    context: Context,
    rivals: Mapping[str, Baseline],
    *,
    view: View,
    k: int,
    progress: Progress,
) -> dict[str, Int32s]:
    """Give ``[B, k]`` lists of all users by the contender, and by the rivals that fit the view."""
    lists = {
        SERVED: contender.lists(held_out, question, context, view=view, k=k, progress=progress)
    }
    for name, scores in rivals.items():
        if view == NEW and name == "personal_frequency":
            continue  # it knows nothing but what this view leaves out
        lists[name] = top_items(
            lambda rows, scores=scores: scores(held_out.users[rows]),
            num_users=len(held_out), num_items=held_out.vocabulary.num_items, k=k,
            banned=question.banned, allowed=held_out.counts > 0,
        )  # fmt: skip
    return lists


def _keeping_unseen(
    ranked: Int32s, question: Question, known: Int64s, k: int
) -> Mapping[str, float]:
    relevant = rows_of(question.relevant_with_unseen, known)
    hits, truth = hit_table(ranked[known], relevant), num_relevant(relevant)
    judged = truth > 0
    return {
        f"recall@{k}_keeping_unseen": round(float(recall_at_k(hits, truth, k=k)[judged].mean()), 5),
        f"ndcg@{k}_keeping_unseen": round(float(ndcg_at_k(hits, truth, k=k)[judged].mean()), 5),
    }


def _probabilities(
    contender: Contender, held_out: HeldOut, terms: Terms, log: pl.DataFrame | None,
    has_lists: bool, progress: Progress,
) -> tuple[list[Probabilities], dict[str, Any]]:  # fmt: skip
    if not has_lists:
        return of_candidates(
            contender, held_out, window_ms=terms.window_ms, seed=terms.seed, progress=progress
        )
    if log is None:
        return [], {}
    return of_shown_lists(
        contender, held_out, log, attribution_ms=terms.attribution_ms, seed=terms.seed,
        progress=progress,
    )  # fmt: skip
