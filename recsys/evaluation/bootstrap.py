"""Bootstrap intervals: how far a mean over users would wander with other users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A mean and where 95 % of its resamples lie."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    num_resamples: int = 500,
    confidence: float = 0.95,
) -> Interval:
    """Give the mean of ``values`` ``[B]`` with its percentile interval; NaN values are left out.

    Resamples by multinomial weights in one matrix product. All NaN when nothing is left.
    Source: Efron & Tibshirani 1993, section 13.3.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    n = len(kept)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=num_resamples)
    means = weights @ kept / n
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(kept.mean()), float(low), float(high))
