"""Which users and which items a bundle serves well: segments of a judged test.

Users are divided by whether they acted before, by how much, and by each attribute of theirs that
the log has; the items to be found by popularity, age, category and each attribute of theirs.

Axes: ``B`` users, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from recsys.clock import DAY_MS
from recsys.data.catalogue import Catalogue
from recsys.evaluation.exposure import POPULARITY_GROUPS, popularity_group
from recsys.evaluation.report import user_values
from recsys.evaluation.segments import Grouping, GroupQuality, by_quartile, by_value, judge_group
from recsys.features.batch import Int32s, Int64s, Ragged
from training.report.attributes import groupings_of
from training.report.protocol import HeldOut, Question, View, only, rows_of

NEW_ITEM_DAYS = 30
METRICS = ("recall", "ndcg", "hit_rate")
ACTIVITY, SEEN_BEFORE, POPULARITY, AGE = "activity", "user is", "popularity", "item age"


@dataclass(frozen=True, kw_only=True)
class Division:
    """A grouping and what it means."""

    of: Literal["users", "items"]
    grouping: Grouping
    about: str
    keeps_unseen: bool = False
    """Items nobody had before the test stay relevant (items only)."""
    all_users: bool = False
    """Users who are new are in it too (users only)."""


@dataclass(frozen=True, kw_only=True)
class SegmentQuality:
    """One division of one view, judged."""

    view: View
    division: Division
    groups: list[GroupQuality]


def divisions(held_out: HeldOut, catalogue: Catalogue, log: pl.DataFrame | None) -> list[Division]:
    """Give all divisions of a test's users and items; ``log`` has their attributes."""
    until_ms = held_out.test_from_ms
    known = held_out.is_known
    found = [
        Division(
            of="users", all_users=True,
            grouping=Grouping(
                by=SEEN_BEFORE, names=("known", "new"), group=np.where(known, 0, 1)
            ),
            about="known users acted before the test; new ones had not, and are in no other figure",
        ),
        Division(
            of="users", grouping=_activity(held_out),
            about="quartiles of interactions before the test",
        ),
    ]  # fmt: skip
    if log is not None:
        ids = held_out.user_ids.tolist()
        found += [
            Division(
                of="users", grouping=g, about="attribute of the user, as last said before the test"
            )
            for g in groupings_of(log, kind="user", ids=ids, until_ms=until_ms)
        ]
    popularity = Grouping(
        by=POPULARITY, names=POPULARITY_GROUPS, group=popularity_group(held_out.counts)
    )
    found += [
        Division(
            of="items", grouping=popularity,
            about="head: the fewest items with 20 % of all interactions before the test; tail: the "
            "least popular with at most 20 % together",
        ),
        Division(
            of="items", grouping=_age(held_out), keeps_unseen=True,
            about=f"new: first seen in the {NEW_ITEM_DAYS} days before the test; later ones come "
            "with the test and cannot be recommended by a bundle from before it",
        ),
    ]  # fmt: skip
    category = [
        None if c == len(catalogue.vocabulary.categories) else catalogue.vocabulary.categories[c]
        for c in catalogue.category.tolist()
    ]
    groupings = [by_value("category", [None, *category])]
    if log is not None:
        ids = ["", *catalogue.vocabulary.item_ids]
        groupings += groupings_of(log, kind="item", ids=ids, until_ms=until_ms)
    found += [
        Division(
            of="items", grouping=g, about="attribute of the item, as last said before the test"
        )
        for g in groupings
        if g is not None
    ]
    return found


def judge_segments(
    held_out: HeldOut,
    questions: Mapping[View, Question],
    ours: Mapping[View, Int32s],
    theirs: Mapping[View, Int32s] | None,
    wanted: list[Division],
    *,
    k: int,
    seed: int,
) -> Iterator[SegmentQuality]:
    """Judge lists ``[B, k]`` by every division; ``theirs`` are another bundle's for comparison."""
    known = np.flatnonzero(held_out.is_known)
    for view, question in questions.items():
        for division in wanted:
            rng = np.random.default_rng(seed)
            groups = [
                judge_group(
                    name,
                    *_values(
                        held_out, question, division, g, known, ours[view],
                        None if theirs is None else theirs[view], k,
                    ),
                    rng=rng,
                )
                for g, name in enumerate(division.grouping.names)
            ]  # fmt: skip
            yield SegmentQuality(view=view, division=division, groups=groups)


def as_metrics(segments: list[SegmentQuality], *, k: int) -> dict[str, Any]:
    """Give plain numbers: by view, then what is divided by, then group."""
    out: dict[str, Any] = {}
    for segment in segments:
        rows = out.setdefault(segment.view, {}).setdefault(
            f"{segment.division.of}: {segment.division.grouping.by}", {}
        )
        for group in segment.groups:
            row: dict[str, Any] = {"num_users": group.num_users}
            for metric in METRICS:
                if metric in group.by_metric:
                    found = group.by_metric[metric]
                    row[f"{metric}@{k}"] = round(found.mean, 5)
                    row[f"{metric}@{k}_interval"] = [round(found.low, 5), round(found.high, 5)]
            rows[group.name] = row
    return out


def _values(
    held_out: HeldOut, question: Question, division: Division, g: int, known: Int64s,
    ours: Int32s, theirs: Int32s | None, k: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:  # fmt: skip
    group = division.grouping.group
    relevant: Ragged = question.relevant_with_unseen if division.keeps_unseen else question.relevant
    if division.of == "users":
        rows = np.flatnonzero((group == g) & (held_out.is_known | division.all_users))
    else:
        rows = known
        relevant = only(relevant, group == g)
    relevant = rows_of(relevant, rows)

    def of(lists: Int32s) -> dict[str, np.ndarray]:
        values = user_values(lists[rows], relevant, k=k)
        return {metric: values[metric] for metric in METRICS}

    return of(ours), None if theirs is None else of(theirs)


def _activity(held_out: HeldOut) -> Grouping:
    known = np.flatnonzero(held_out.is_known)
    found = by_quartile(ACTIVITY, held_out.num_before[known])
    group = np.full(len(held_out), -1, dtype=np.int64)
    group[known] = found.group
    names = tuple(f"{name} interactions" for name in found.names)
    return Grouping(by=ACTIVITY, names=names, group=group)


def _age(held_out: HeldOut) -> Grouping:
    first, until_ms = held_out.first_seen_ms, held_out.test_from_ms
    group = np.select(
        [first >= until_ms, first >= until_ms - NEW_ITEM_DAYS * DAY_MS], [2, 1], default=0
    ).astype(np.int64)
    group[0] = -1
    return Grouping(by=AGE, names=("older", "new", "later"), group=group)
