"""How far a feature has moved between two times: one number from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.features.quality.statistics import profile_feature
from recsys.features.view import Feature


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One feature before and since."""

    null_share_before: float
    null_share_since: float
    """Of the values, those that are null; NaN where there are no values."""
    bits: float
    """Jensen-Shannon divergence of the two distributions, nulls a value of their own; NaN where it
    says nothing: one of them is empty, or the values are times, which only ever move on."""


def drift_of(feature: Feature, before: pl.Series, since: pl.Series) -> Drift:
    """Compare the values of a feature before and since, ``[N]`` and ``[M]`` of any type.

    The distributions are those of the profile page: few distinct values have a bar each, others
    share up to 30 bars; a list or a text is described by its length.
    """
    profile = profile_feature(feature, [before, since])
    num = np.array([summary.num for summary in profile.summaries], dtype=np.float64)
    null = np.array([summary.num_null for summary in profile.summaries], dtype=np.float64)
    shares = np.divide(null, num, out=np.full(2, np.nan), where=num > 0)
    plot = profile.plots[0]
    bars = np.empty((2, 0)) if plot.histogram is None else plot.histogram.counts
    is_said = num.min() > 0 and plot.unit != "time"
    return Drift(
        null_share_before=float(shares[0]),
        null_share_since=float(shares[1]),
        bits=divergence_bits(*np.column_stack([bars, null])) if is_said else float("nan"),
    )


def divergence_bits(before: NDArray[np.float64], since: NDArray[np.float64]) -> float:
    """Give the Jensen-Shannon divergence of two rows of counts: 0 the same, 1 nothing in common.

    It is finite where a bar is empty on one side, as the population stability index is not, and
    does not depend on units. Of ``n`` draws each from one distribution over ``b`` bars it is about
    ``(b - 1) / (4 n ln 2)``, not 0.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy", equation 4.1.

    >>> divergence_bits(np.array([3.0, 1.0]), np.array([6.0, 2.0]))
    0.0
    >>> divergence_bits(np.array([5.0, 0.0]), np.array([0.0, 7.0]))
    1.0
    """
    p, q = before / before.sum(), since / since.sum()
    found = _entropy_bits((p + q) / 2) - (_entropy_bits(p) + _entropy_bits(q)) / 2
    return float(np.clip(found, 0.0, 1.0))


def _entropy_bits(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())
