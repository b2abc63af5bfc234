"""One table of all recommenders by all metrics, as numbers (JSON) and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from recsys.evaluation.average_precision import average_precision_at_k
from recsys.evaluation.bootstrap import Interval, bootstrap_mean
from recsys.evaluation.coverage import coverage_at_k
from recsys.evaluation.gini import gini_at_k
from recsys.evaluation.hit_rate import hit_rate_at_k
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.novelty import novelty_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.reciprocal_rank import reciprocal_rank_at_k
from recsys.features.batch import Ragged

USER_METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")
"""Means over users, each with a bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class ListQuality:
    """How good one recommender's lists are in one view."""

    k: int
    """Places looked at."""
    num_users: int
    """Users with something relevant; the means are over these."""
    by_user: Mapping[str, Interval]
    """``USER_METRICS`` with intervals."""
    coverage: float
    gini: float
    novelty_bits: float

    def as_json(self) -> dict[str, object]:
        """Give plain numbers, keys such as ``recall@20`` and ``recall@20_interval``."""
        out: dict[str, object] = {"num_users": self.num_users}
        for name, interval in self.by_user.items():
            out[f"{name}@{self.k}"] = round(interval.mean, 5)
            out[f"{name}@{self.k}_interval"] = [round(interval.low, 5), round(interval.high, 5)]
        out[f"coverage@{self.k}"] = round(self.coverage, 5)
        out[f"gini@{self.k}"] = round(self.gini, 5)
        out[f"novelty_bits@{self.k}"] = round(self.novelty_bits, 3)
        return out


def judge_lists(
    ranked: NDArray[np.integer],
    relevant: Ragged,
    *,
    k: int,
    popularity: NDArray[np.number],
    rng: np.random.Generator,
) -> ListQuality:
    """Judge ``[B, K]`` lists (K >= k, 0 pads) against the relevant items of each user.

    ``popularity`` ``[N + 1]`` counts interactions in training (for novelty).
    """
    hits = hit_table(ranked[:, :k], relevant)
    truth = num_relevant(relevant)
    values = {
        "recall": recall_at_k(hits, truth, k=k),
        "ndcg": ndcg_at_k(hits, truth, k=k),
        "hit_rate": hit_rate_at_k(hits, truth, k=k),
        "mrr": reciprocal_rank_at_k(hits, truth, k=k),
        "map": average_precision_at_k(hits, truth, k=k),
    }
    num_items = len(popularity) - 1
    return ListQuality(
        k=k,
        num_users=int((truth > 0).sum()),
        by_user={name: bootstrap_mean(v, rng=rng) for name, v in values.items()},
        coverage=coverage_at_k(ranked, num_items=num_items, k=k),
        gini=gini_at_k(ranked, num_items=num_items, k=k),
        novelty_bits=novelty_at_k(ranked, popularity, k=k),
    )


def as_table(title: str, rows: Mapping[str, ListQuality]) -> Table:
    """Give a printable table: one recommender a line, half an interval beside recall and NDCG."""
    k = next(iter(rows.values())).k
    table = Table(title=title, title_justify="left")
    table.add_column("recommender", no_wrap=True)
    for name in (f"Recall@{k}", f"NDCG@{k}", f"HR@{k}", f"MRR@{k}", "coverage", "users"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, quality in rows.items():
        table.add_row(
            name,
            _with_interval(quality.by_user["recall"]),
            _with_interval(quality.by_user["ndcg"]),
            f"{quality.by_user['hit_rate'].mean:.4f}",
            f"{quality.by_user['mrr'].mean:.4f}",
            f"{quality.coverage:.3f}",
            str(quality.num_users),
        )
    return table


def _with_interval(interval: Interval) -> str:
    return f"{interval.mean:.4f} ±{(interval.high - interval.low) / 2:.3f}"
