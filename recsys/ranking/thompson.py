"""Thompson sampling over log-odds: how uncertain an item is, and how likely it is to come out best.

The log-odds of an item are taken as normal around the model's own, with the variance of a Beta
posterior of mean ``p`` and ``n`` observations, ``1 / (n p (1 - p))`` (delta method). ``n`` is what
the model's estimate alone is worth plus the interactions the item had in the bundle's window of
popularity. That is a stand-in, said plainly: no posterior over the ranker's weights is kept, items
are drawn independently, and interactions are counted where impressions would be the observations,
so that items explored come out as less certain than they are. Each place is a fresh draw.

Source: Chapelle & Li 2011, "An Empirical Evaluation of Thompson Sampling": section 2 (Beta
posterior of a click rate) and algorithm 3 (a normal posterior of log-odds). We differ in the fresh
draw a place, for which the chance of an item at its place depends on the list above through the
items still open alone.

Axes: ``C`` candidates.
"""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Float32s
from recsys.ranking.similarity import Float64s

_REACH = 6.0
"""Standard deviations of an item looked at: what lies beyond weighs 2e-9."""
_NEGLIGIBLE = 1e-5
"""Chance that may be left out of an integral, at its lower end and for rivals far below."""
_MAX_RATIO = 10.0
"""Between the widest and the narrowest deviation."""
_NODES_PER_DEVIATION = 2.0
"""Points of an integral in the narrowest deviation that matters to it."""
_TABLE_REACH, _TABLE_STEP = 8.0, 1 / 512
_TABLE_AT = np.arange(-_TABLE_REACH, _TABLE_REACH + _TABLE_STEP, _TABLE_STEP)
_TABLE = np.exp(-0.5 * _TABLE_AT**2)
_TABLE = (np.cumsum(_TABLE) - 0.5 * _TABLE) / _TABLE.sum()
_TABLE_RISE = np.diff(_TABLE, append=_TABLE[-1])
_SURE = -float(np.interp(_NEGLIGIBLE, _TABLE, _TABLE_AT))
"""Deviations past which a rival is above with a chance of ``1 - _NEGLIGIBLE``."""
LEAST_CHANCE = 1e-6
"""Below it the integral has no correct digit left."""


def deviation_of(probability: Float32s, evidence: Float64s, *, prior_strength: float) -> Float64s:
    """Give ``[C]`` standard deviations of log-odds.

    Args:
        probability: ``[C]`` calibrated, of the first objective.
        evidence: ``[C]`` interactions observed, at least 0.
        prior_strength: Observations the model's estimate alone is worth.

    No deviation is below a tenth of the widest, so that the integral of ``chance_of_best`` stays
    within its error.
    """
    p = np.clip(probability.astype(np.float64), 1e-4, 1.0 - 1e-4)
    deviation = 1.0 / np.sqrt((prior_strength + evidence) * p * (1.0 - p))
    if len(deviation) == 0:
        return deviation
    floored: Float64s = np.maximum(deviation, deviation.max() / _MAX_RATIO)
    return floored


def chance_of_best(mean: Float64s, deviation: Float64s, place: int) -> float:
    """Give the chance that candidate ``place`` has the highest of independent normal draws.

    The integral ``∫ φ(z) Π_j Φ((μ_i + σ_i z - μ_j) / σ_j) dz`` over the other candidates, by the
    trapezoid rule: within 1e-4 of the truth where deviations are at most ten times apart, and
    never below ``LEAST_CHANCE``. 1 when nothing varies and ``place`` is the best.

    Args:
        mean: ``[C]``.
        deviation: ``[C]``, above 0 for all or 0 for all.
        place: Whose chance it is.
    """
    if deviation[place] <= 0 or len(mean) == 1:
        return 1.0
    others = np.arange(len(mean)) != place
    rival, spread = mean[others], deviation[others]
    # Below this some rival is above as good as surely.
    reach = _REACH * deviation[place]
    lowest = max(float((rival - _SURE * spread).max()), float(mean[place] - reach))
    highest = float(mean[place] + reach)
    if lowest >= highest:
        return LEAST_CHANCE
    # Rivals that are below it as good as surely, all together, do not matter.
    above = normal_cdf((rival - lowest) / spread)
    order = np.argsort(above)
    matters = order[int(np.searchsorted(np.cumsum(above[order]), _NEGLIGIBLE)) :]
    rival, spread = rival[matters], spread[matters]
    narrowest = min(float(deviation[place]), float(spread.min()) if len(spread) else np.inf)
    num = int(_NODES_PER_DEVIATION * (highest - lowest) / narrowest) + 25
    at = np.linspace(lowest, highest, num)
    weight = np.exp(-0.5 * ((at - mean[place]) / deviation[place]) ** 2)
    weight *= (at[1] - at[0]) / (deviation[place] * np.sqrt(2.0 * np.pi))
    weight[[0, -1]] *= 0.5
    below = normal_cdf((at[:, np.newaxis] - rival) / spread).prod(axis=1)
    return float(np.clip(below @ weight, LEAST_CHANCE, 1.0))


def normal_cdf(z: Float64s) -> Float64s:
    """Give the normal distribution function of any array, within 1e-6; from a table."""
    at = (np.clip(z, -_TABLE_REACH, _TABLE_REACH) + _TABLE_REACH) * (1 / _TABLE_STEP)
    below = at.astype(np.intp)
    at -= below
    at *= _TABLE_RISE[below]
    at += _TABLE[below]
    return at
