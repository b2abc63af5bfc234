"""Is a case slower than its baseline by more than the same code differs from itself?

The baseline are repeats of earlier runs, a fresh process each. The *tolerance* is what they say of
themselves: a run of as many repeats as were measured now, drawn from the baseline, lies below it in
999 of 1,000 draws. The verdict is by the lower end of the 95 % interval of now over the baseline
(``loadtest/ratio.py``): above the tolerance it is a regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.loadtest.ratio import LEAST_REPEATS, Ratio, bootstrap_ratio
from recsys.errors import InputError

LEAST_BASELINE = 8
"""Repeats that say something of how runs differ."""
_LEAST_TOLERANCE = 1.05
"""A smaller regression is not sought: compilers and layouts of memory move ratios by as much."""
_DRAWS, _QUANTILE = 20_000, 0.999


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be said of one case."""

    case: str
    ratio: Ratio
    """Now over the baseline; above 1 it is slower."""
    tolerance: float

    @property
    def is_regression(self) -> bool:
        """Whether it is slower than the noise explains."""
        return self.ratio.low > self.tolerance

    @property
    def looks_slower(self) -> bool:
        """Whether a second look is worth its time."""
        return self.ratio.ratio > self.tolerance


def judge(case: str, baseline: Sequence[float], now: Sequence[float], *, seed: int = 0) -> Verdict:
    """Compare repeats of now with the baseline's. Raises InputError for too few of either."""
    if len(baseline) < LEAST_BASELINE or len(now) < LEAST_REPEATS:
        raise InputError(
            f"{case}: wanted {LEAST_BASELINE} repeats in the baseline and {LEAST_REPEATS} now to "
            f"know the noise, found {len(baseline)} and {len(now)}; record more with --record"
        )
    ratio = bootstrap_ratio(baseline, now, seed=seed)
    return Verdict(case=case, ratio=ratio, tolerance=tolerance(baseline, len(now), seed=seed))


def tolerance(baseline: Sequence[float], repeats: int, *, seed: int = 0) -> float:
    """Give the ratio that a run of ``repeats`` of the same code hardly ever reaches.

    A baseline of n repeats varies less than what it was drawn from, by about sqrt(1 - 1 / n).
    """
    logs = np.log(np.asarray(baseline, dtype=np.float64))
    around = (logs - logs.mean()) * math.sqrt(len(logs) / (len(logs) - 1))
    drawn = np.random.default_rng(seed).integers(len(around), size=(_DRAWS, repeats))
    reached = float(np.quantile(around[drawn].mean(axis=1), _QUANTILE))
    return max(_LEAST_TOLERANCE, math.exp(reached))
