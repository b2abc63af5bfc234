"""One table of all recommenders by all metrics, as numbers (JSON) and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from recsys.evaluation.average_popularity import average_popularity_at_k
from recsys.evaluation.average_precision import average_precision_at_k
from recsys.evaluation.bootstrap import Interval, bootstrap_means
from recsys.evaluation.coverage import coverage_at_k
from recsys.evaluation.diversity import category_diversity_at_k, vector_diversity_at_k
from recsys.evaluation.exposure import (
    POPULARITY_GROUPS,
    exposure_of_items,
    group_shares,
    popularity_group,
)
from recsys.evaluation.gini import gini_at_k
from recsys.evaluation.hit_rate import hit_rate_at_k
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.novelty import novelty_at_k
from recsys.evaluation.popularity_lift import popularity_lift_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.reciprocal_rank import reciprocal_rank_at_k
from recsys.features.batch import Ragged

USER_METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")
"""Means over users, each with a bootstrap interval."""
Float64s = NDArray[np.float64]


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
    average_popularity: float
    """Interactions before the test of the items shown, mean over lists."""
    popularity_lift: float
    """NaN where what users had is not given."""
    vector_diversity: float
    category_diversity: float
    """NaN where vectors or categories are not given."""
    exposure: Mapping[str, float]
    """Share of the places, discounted, that head, torso and tail get."""

    def as_json(self) -> dict[str, object]:
        """Give plain numbers, keys such as ``recall@20`` and ``recall@20_interval``."""
        out: dict[str, object] = {"num_users": self.num_users}
        for name, interval in self.by_user.items():
            out[f"{name}@{self.k}"] = _rounded(interval.mean)
            out[f"{name}@{self.k}_interval"] = [_rounded(interval.low), _rounded(interval.high)]
        for name, value in self.of_lists().items():
            out[f"{name}@{self.k}"] = _rounded(value)
        return out

    def of_lists(self) -> dict[str, float]:
        """Give what is said of the lists whether or not they are right."""
        return {
            "coverage": self.coverage,
            "gini": self.gini,
            "novelty_bits": self.novelty_bits,
            "vector_diversity": self.vector_diversity,
            "category_diversity": self.category_diversity,
            "average_popularity": self.average_popularity,
            "popularity_lift": self.popularity_lift,
            **{f"exposure_{name}": share for name, share in self.exposure.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ItemFacts:
    """What beyond-accuracy metrics want to know of items, ``[N + 1, ...]``."""

    popularity: NDArray[np.number]
    """Interactions in training."""
    category: NDArray[np.integer] | None = None
    """Codes from 0, -1 for none."""
    vectors: NDArray[np.floating] | None = None


def user_values(ranked: NDArray[np.integer], relevant: Ragged, *, k: int) -> dict[str, Float64s]:
    """Give ``[B]`` each of ``USER_METRICS``; NaN for a user with nothing relevant."""
    hits, truth = hit_table(ranked[:, :k], relevant), num_relevant(relevant)
    return {
        "recall": recall_at_k(hits, truth, k=k),
        "ndcg": ndcg_at_k(hits, truth, k=k),
        "hit_rate": hit_rate_at_k(hits, truth, k=k),
        "mrr": reciprocal_rank_at_k(hits, truth, k=k),
        "map": average_precision_at_k(hits, truth, k=k),
    }


def intervals(values: Mapping[str, Float64s], rng: np.random.Generator) -> dict[str, Interval]:
    """Give each column's mean with its interval, from the same resamples of users."""
    table = np.stack(list(values.values()), axis=1)
    return dict(zip(values, bootstrap_means(table, rng=rng), strict=True))


def judge_lists(
    ranked: NDArray[np.integer],
    relevant: Ragged,
    *,
    k: int,
    items: ItemFacts,
    rng: np.random.Generator,
    profiles: Ragged | None = None,
) -> ListQuality:
    """Judge ``[B, K]`` lists (K >= k, 0 pads) against the relevant items of each user.

    ``profiles`` holds what each user had before, for the popularity lift.
    """
    values = user_values(ranked, relevant, k=k)
    judged = ~np.isnan(values["recall"])
    popularity = items.popularity
    num_items = len(popularity) - 1
    exposure = exposure_of_items(ranked, num_items=num_items, k=k)
    shares = group_shares(exposure, popularity_group(popularity), num_groups=3)
    nothing = np.full(1, np.nan)
    return ListQuality(
        k=k,
        num_users=int(judged.sum()),
        by_user=intervals({name: v[judged] for name, v in values.items()}, rng),
        coverage=coverage_at_k(ranked, num_items=num_items, k=k),
        gini=gini_at_k(ranked, num_items=num_items, k=k),
        novelty_bits=novelty_at_k(ranked, popularity, k=k),
        average_popularity=_mean(average_popularity_at_k(ranked, popularity, k=k)),
        popularity_lift=float("nan")
        if profiles is None
        else popularity_lift_at_k(ranked, profiles, popularity, k=k),
        vector_diversity=_mean(
            nothing if items.vectors is None else vector_diversity_at_k(ranked, items.vectors, k=k)
        ),
        category_diversity=_mean(
            nothing
            if items.category is None
            else category_diversity_at_k(ranked, items.category, k=k)
        ),
        exposure=dict(zip(POPULARITY_GROUPS, shares.tolist(), strict=True)),
    )


def _mean(values: Float64s) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _rounded(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else round(value, 5)


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
