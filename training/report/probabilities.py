"""What was said to happen, beside what happened: each objective's probabilities on the test.

Where the log has shown lists, a probability speaks of an item that was shown, and the rows are the
lists of the test period, each asked for a millisecond before it was shown. Where it has none, it
speaks of the window after a request, and the rows are all candidates of known users just before the
test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from recsys.bundle.manifest import Objective
from recsys.clock import DAY_MS
from recsys.data.examples import labels_after
from recsys.data.impressions import LabelRule, read_shown_lists
from recsys.evaluation.auc import auc
from recsys.evaluation.calibration import expected_calibration_error
from recsys.evaluation.grouped_auc import grouped_auc
from recsys.evaluation.log_loss import log_loss
from recsys.evaluation.reliability import ReliabilityCurve, reliability_curve
from recsys.features.batch import Int64s
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from training.progress import Progress
from training.report.contender import CHUNK, Contender
from training.report.protocol import HeldOut

MAX_USERS, MAX_LISTS = 1_000, 5_000
"""Asked for probabilities; more are thinned by chance."""
NUM_BINS = 15
CANDIDATES, SHOWN = "candidates", "shown lists"


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Rows of one objective, and what they come to."""

    objective: str
    rows: str
    """``CANDIDATES`` or ``SHOWN``."""
    curve: ReliabilityCurve
    figures: dict[str, float]

    @classmethod
    def of(
        cls, objective: str, rows: str, p: NDArray[np.float64], y: NDArray[np.bool_], user: Int64s
    ) -> Probabilities:
        """Judge probabilities ``p`` of labels ``y``; ``user`` groups the rows for gAUC."""
        figures = {
            "expected_calibration_error": expected_calibration_error(p, y, num_bins=NUM_BINS),
            "mean_probability": float(p.mean()) if len(p) else float("nan"),
            "observed_rate": float(y.mean()) if len(p) else float("nan"),
            "log_loss": log_loss(p, y),
            "auc": auc(p, y),
            "grouped_auc": grouped_auc(p, y, user),
        }
        curve = reliability_curve(p, y, num_bins=NUM_BINS)
        return cls(objective=objective, rows=rows, curve=curve, figures=figures)

    def as_json(self) -> dict[str, float | None]:
        """Give the figures, NaN as None."""
        return {n: None if np.isnan(v) else round(v, 5) for n, v in self.figures.items()}


def of_candidates(
    contender: Contender, held_out: HeldOut, *, window_ms: int, seed: int, progress: Progress
) -> tuple[list[Probabilities], dict[str, Any]]:
    """Judge all candidates of known users in the window after the split."""
    window_ms = min(window_ms, held_out.end_ms + 1 - held_out.test_from_ms)
    past = held_out.past
    users = _some(np.unique(past.user), MAX_USERS, seed)
    ids = np.array(past.user_ids, dtype=object)[users]
    moments = np.full(len(users), held_out.test_from_ms - 1, dtype=np.int64)
    context = contender.contexts(ids, moments, progress, "known users")
    indexes, chances = [], []
    for rows in torch.arange(len(users)).split(CHUNK):
        part = {name: tensor[rows] for name, tensor in context.items()}
        candidates = contender.model.retrieve(
            part,
            num_candidates=min(contender.num_candidates, contender.model.num_items),
            exclude_index=torch.zeros(len(rows), 1, dtype=torch.int32),
            exclude_history=torch.zeros(len(rows), 1, dtype=torch.bool),
        )
        indexes.append(candidates.item_index.cpu().numpy().astype(np.int64))
        chances.append(contender.model.rank(part, candidates).objective_score.cpu().numpy())
    index, chance = np.concatenate(indexes), np.concatenate(chances).astype(np.float64)
    span = contender.model.num_items + 1
    wanted = users[:, None] * span + index
    shown = index != 0
    owner_of = np.broadcast_to(users[:, None], index.shape)[shown]
    found = []
    for column, objective in enumerate(contender.objectives):
        interactions = held_out.interactions
        mask = interactions.of_type(objective.interaction, min_value=objective.min_value)
        takers, taken = labels_after(
            interactions.where(mask),
            from_ms=held_out.test_from_ms, until_ms=held_out.test_from_ms + window_ms,
        )  # fmt: skip
        owner = np.repeat(takers, np.diff(taken.offsets))
        label = np.isin(wanted, owner * span + taken.values)[shown]
        p = chance[:, :, column][shown]
        found.append(Probabilities.of(objective.name, CANDIDATES, p, label, owner_of))
    return found, {"window_days": round(window_ms / DAY_MS, 2)}


def of_shown_lists(
    contender: Contender, held_out: HeldOut, log: pl.DataFrame, *, attribution_ms: int, seed: int,
    progress: Progress,
) -> tuple[list[Probabilities], dict[str, Any]]:  # fmt: skip
    """Judge the lists shown in the test period whose attribution window ends within the log.

    The items' moving features are refreshed once a cell of an eighth of the period, always from
    before the list.
    """
    in_test = log.filter(pl.col("event_time_ms") >= held_out.test_from_ms)
    rules = _rules(contender.objectives)
    lists = read_shown_lists(in_test, contender.vocabulary, rules, window_ms=attribution_ms)
    complete = lists.time_ms + attribution_ms <= held_out.end_ms
    chosen = _some(np.flatnonzero(complete & (lists.item > 0).any(axis=1)), MAX_LISTS, seed)
    cell_ms = max((held_out.end_ms + 1 - held_out.test_from_ms) // 8, 1)
    cell = (lists.time_ms[chosen] - held_out.test_from_ms) // cell_ms
    _, user_code = np.unique(lists.user_id, return_inverse=True)
    kept: list[tuple[np.ndarray, ...]] = []
    for value in np.unique(cell).tolist():
        of_cell = chosen[cell == value]
        as_of_ms = held_out.test_from_ms + value * cell_ms - 1
        activity = contender.items.activity_at(None, as_of_ms).activity
        activity = np.concatenate([np.zeros_like(activity[:1]), activity])
        contender.model.items.set_activity(torch.from_numpy(activity), as_of_ms)
        for begin in range(0, len(of_cell), CHUNK):
            rows = of_cell[begin : begin + CHUNK]
            context = contender.contexts(
                lists.user_id[rows], lists.time_ms[rows] - 1, Progress(quiet=True), "lists"
            )
            if keys := contender.encoding.request_keys:
                said = request_tokens([lists.said(row) for row in rows.tolist()], keys)
                context[REQUEST_TOKENS] = torch.from_numpy(said)
            item = torch.from_numpy(lists.item[rows])
            scored = contender.model.score_sources(context, item)
            chance = contender.model.rank(context, scored).objective_score.cpu().numpy()
            shown = lists.item[rows] != 0
            owner = np.broadcast_to(user_code[rows][:, None], shown.shape)[shown]
            kept.append((chance[shown], lists.label[rows][shown], owner))
    if not kept:
        return [], {}
    chance, label, owner = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return [
        Probabilities.of(
            objective.name, SHOWN, chance[:, n].astype(np.float64), label[:, n] > 0, owner
        )
        for n, objective in enumerate(contender.objectives)
    ], {"num_lists": len(chosen), "attribution_minutes": round(attribution_ms / 60_000, 1)}


def _rules(objectives: Sequence[Objective]) -> list[LabelRule]:
    return [
        LabelRule(objective=o.name, interaction=o.interaction, min_value=o.min_value)
        for o in objectives
    ]


def _some(rows: Int64s, limit: int, seed: int) -> Int64s:
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=limit, replace=False))
