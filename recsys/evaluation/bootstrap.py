"""Bootstrap intervals: how far a mean over users would wander with other users.

Resamples draw users, not rows, because a user's answers hang together. Axes: ``B`` users, ``M``
metrics, ``R`` resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
NUM_RESAMPLES = 500
_CHUNK_VALUES = 8_000_000
"""Weights drawn at a time: 64 MB, however many users there are."""


class Interval(NamedTuple):
    """A mean and where 95 % of its resamples lie."""

    mean: float
    low: float
    high: float


_NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def bootstrap_mean(
    values: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Give the mean of ``values`` ``[B]`` with its percentile interval; NaN values are left out.

    All NaN when nothing is left. Source: Efron & Tibshirani 1993, "An introduction to the
    bootstrap", section 13.3.
    """
    kept = np.asarray(values, dtype=np.float64)
    return bootstrap_means(
        kept[~np.isnan(kept)][:, None], rng=rng, num_resamples=num_resamples, confidence=confidence
    )[0]


def bootstrap_means(
    values: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> list[Interval]:
    """Give the means of the columns of ``[B, M]`` with intervals, from the same resamples of users.

    A NaN is left out of its own column. Memory does not grow with R; time is that of R * B draws.
    """
    table = np.asarray(values, dtype=np.float64)
    num_users, there = len(table), ~np.isnan(table)
    if num_users == 0:
        return [_NOTHING] * table.shape[1]
    filled = np.where(there, table, 0.0)
    columns = np.concatenate([filled, there], axis=1)
    parts: list[Float64s] = []
    step = max(_CHUNK_VALUES // num_users, 1)
    for begin in range(0, num_resamples, step):
        # Drawing users and counting them is the multinomial, at a third of its cost.
        size = min(step, num_resamples - begin)
        drawn = rng.integers(num_users, size=(size, num_users))
        drawn += np.arange(size)[:, None] * num_users
        weights = np.bincount(drawn.ravel(), minlength=size * num_users)
        parts.append(weights.reshape(size, num_users).astype(np.float64) @ columns)
    sums = np.concatenate(parts)
    num_metrics = table.shape[1]
    count = sums[:, num_metrics:]
    means = np.divide(
        sums[:, :num_metrics], count, out=np.full(count.shape, np.nan), where=count > 0
    )
    tail = (1.0 - confidence) / 2.0
    out = []
    for column in range(num_metrics):
        found = means[:, column]
        found = found[~np.isnan(found)]
        if not there[:, column].any() or len(found) == 0:
            out.append(_NOTHING)
            continue
        low, high = np.quantile(found, [tail, 1.0 - tail])
        mean = filled[:, column].sum() / there[:, column].sum()
        out.append(Interval(float(mean), float(low), float(high)))
    return out


def paired_difference(
    ours: NDArray[np.floating],
    theirs: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Give the mean of ``ours - theirs`` over the same ``[B]`` users with its interval.

    Users who are hard for one are hard for the other, so this interval is much narrower than the
    two intervals side by side suggest. A user who is NaN in either is left out.
    Source: Sakai 2006, "Evaluating evaluation metrics based on the bootstrap", section 3.1.
    """
    return bootstrap_mean(
        np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64),
        rng=rng, num_resamples=num_resamples,
    )  # fmt: skip
