"""How much more or less B is than A, when both were measured several times.

The bootstrap draws whole repeats, since what one repeat measured hangs together: the machine was
as it was. With few repeats a plain percentile interval is too narrow, so its percentiles are moved
outwards until they would cover Student's t of as many: Hesterberg 2015, "What teachers should
know about the bootstrap", on expanded percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEAST_REPEATS = 4
"""Of each side. Of all ways to deal six equal measurements to two sides, one in ten separates them
fully; of eight it is one in 35."""
_RESAMPLES = 10_000
_BLOCK_RESAMPLES = 2_000
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """B over A, with the interval that holds the true ratio in 95 of 100 such comparisons."""

    ratio: float
    low: float
    """NaN where there are too few repeats to say."""
    high: float

    @property
    def is_more(self) -> bool:
        """Whether B is seen to be more than A."""
        return self.low > 1.0

    @property
    def is_less(self) -> bool:
        """Whether B is seen to be less than A."""
        return self.high < 1.0


def bootstrap_ratio(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Ratio:
    """Give the ratio of the geometric means of positive figures, one for each repeat.

    NaN where a side has none; the interval is NaN below ``LEAST_REPEATS`` of either.
    """
    nan = float("nan")
    if not len(a) or not len(b):
        return Ratio(ratio=nan, low=nan, high=nan)
    logs = [np.log(np.asarray(side, dtype=np.float64)) for side in (a, b)]
    ratio = math.exp(float(logs[1].mean() - logs[0].mean()))
    least = min(len(a), len(b))
    if least < LEAST_REPEATS:
        return Ratio(ratio=ratio, low=nan, high=nan)
    rng = np.random.default_rng(seed)
    means = [
        side[rng.integers(len(side), size=(_RESAMPLES, len(side)))].mean(axis=1) for side in logs
    ]
    low, high = _expanded(means[1] - means[0], least)
    return Ratio(ratio=ratio, low=math.exp(low), high=math.exp(high))


def bootstrap_percentile_ratio(
    a: Sequence[NDArray[np.float64]],
    b: Sequence[NDArray[np.float64]],
    percentile: float,
    *,
    seed: int = 0,
) -> Ratio:
    """Give the ratio of a percentile of positive values, all of a side's blocks together.

    A block is a stretch of time with the values that came in it, drawn whole: what comes together
    waits together. A value without end is ``inf``; where both percentiles are, the ratio is NaN.
    NaN where a side has no value; the interval is NaN below ``LEAST_REPEATS`` blocks of either.
    """
    nan = float("nan")
    sides = [[block for block in side if len(block)] for side in (a, b)]
    least = min(len(side) for side in sides)
    if not least:
        return Ratio(ratio=nan, low=nan, high=nan)

    def log_of(blocks: list[NDArray[np.float64]]) -> float:
        return math.log(np.percentile(np.concatenate(blocks), percentile, method="higher"))

    ratio = math.exp(log_of(sides[1]) - log_of(sides[0]))
    if least < LEAST_REPEATS or not math.isfinite(ratio):
        return Ratio(ratio=ratio, low=nan, high=nan)
    rng = np.random.default_rng(seed)
    drawn = [
        [log_of([side[i] for i in rng.integers(len(side), size=len(side))]) for side in sides]
        for _ in range(_BLOCK_RESAMPLES)
    ]
    low, high = _expanded(np.diff(np.array(drawn), axis=1).ravel(), least)
    return Ratio(ratio=ratio, low=math.exp(low), high=math.exp(high))


def _expanded(drawn: NDArray[np.float64], least: int) -> tuple[float, float]:
    """Give the ends of the interval: percentiles moved outwards as ``least`` repeats ask for."""
    tail = NormalDist().cdf(-math.sqrt(least / (least - 1)) * _student(least - 1))
    # "nearest", since between a finite and an endless one there is nothing to interpolate.
    low, high = np.quantile(drawn, [tail, 1.0 - tail], method="nearest")
    return float(low), float(high)


def _student(freedom: int) -> float:
    """Give Student's two-sided quantile (Abramowitz & Stegun 26.7.5, within 0.7 % from 3 on)."""
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
