"""Fits ``y = a + b * x ** e`` to measured points, and says how far the exponent can be trusted.

For one exponent the best ``a`` and ``b`` are a linear problem, so only the exponent is searched.
Residuals are relative (a point of a million items must not outvote one of ten thousand) and count
linearly beyond a bound (Huber 1964), so that one disturbed point does not turn the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError

Floats = NDArray[np.float64]
_EXPONENTS = np.concatenate([np.arange(0.05, 1.6, 0.025), np.arange(1.6, 3.01, 0.1)])
_HUBER = 1.345
"""Standard deviations from which a residual counts linearly: 95 % efficient where noise is normal
(Huber & Ronchetti 2009, section 4)."""
_ROUNDS = 12
_LEAST_POINTS = 3
_RESAMPLES = 300


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """``fixed + factor * x ** exponent``, with what is known of how sure that is."""

    fixed: float
    factor: float
    exponent: float
    exponent_low: float
    """95 % of a bootstrap over the repeats at each x; NaN where there was one repeat."""
    exponent_high: float
    x_low: float
    """Measured from here …"""
    x_high: float
    """… to here; beyond is extrapolated."""
    error: float
    """Median of the relative differences of the points from the curve."""

    def __call__(self, x: float) -> float:
        """Give the curve at ``x``."""
        return self.fixed + self.factor * float(x) ** self.exponent

    def is_measured_at(self, x: float) -> bool:
        """Whether ``x`` lies between measured points."""
        return self.x_low <= x <= self.x_high


def fit_power_law(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> PowerLaw:
    """Fit points, several of which may share an ``x`` (repeats).

    ``a`` and ``b`` are not negative: a cost has no negative part. Repeats of one x are drawn again
    with replacement for the interval, so that every x stays in.

    Raises:
        InputError: for fewer than three different x, or figures that are not positive.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(np.unique(xs)) < _LEAST_POINTS or len(xs) != len(ys):
        raise InputError(
            f"wanted points at {_LEAST_POINTS} different x to fit three parameters, found "
            f"{len(np.unique(xs))}; measure more of the axis"
        )
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and (xs > 0).all() and (ys > 0).all()):
        raise InputError("wanted positive figures to fit a power law, found others among them")
    a, b, e = _best(xs, ys)
    drawn = _drawn_exponents(xs, ys, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    error = float(np.median(np.abs(a + b * xs**e - ys) / ys))
    return PowerLaw(
        fixed=a, factor=b, exponent=e, exponent_low=float(low), exponent_high=float(high),
        x_low=float(xs.min()), x_high=float(xs.max()), error=error,
    )  # fmt: skip


def fit_line(columns: Floats, y: Floats) -> Floats:
    """Give non-negative weights ``[P]`` of ``columns`` ``[M, P]`` that sum up to ``y`` ``[M]``.

    Relative residuals and Huber's weights, as above.
    """
    weight = 1.0 / np.abs(y)
    found = non_negative(columns * weight[:, None], y * weight)
    for _ in range(_ROUNDS):
        rest = (columns @ found - y) / np.abs(y)
        robust = np.sqrt(_huber(rest)) * weight
        found = non_negative(columns * robust[:, None], y * robust)
    return found


def non_negative(columns: Floats, y: Floats) -> Floats:
    """Solve least squares with no weight below 0: of all sets of columns the best admissible.

    Exact for the few columns that are fitted here (``2 ** P`` small problems).
    """
    size = columns.shape[1]
    best, least = np.zeros(size), float(y @ y)
    for chosen in range(1, 1 << size):
        places = [n for n in range(size) if chosen >> n & 1]
        some = np.linalg.lstsq(columns[:, places], y, rcond=None)[0]
        if (some < 0).any():
            continue
        rest = columns[:, places] @ some - y
        if (total := float(rest @ rest)) < least * (1 - 1e-12):
            best, least = np.zeros(size), total
            best[places] = some
    return best


def _huber(rest: Floats) -> Floats:
    scale = 1.4826 * float(np.median(np.abs(rest)))
    if scale < 1e-9:
        return np.ones(len(rest))
    return np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(rest), 1e-12))


def _best(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Give ``a``, ``b``, ``e``: the exponent from a grid, then finer around the best."""
    e = min(_EXPONENTS.tolist(), key=lambda e: _loss(x, y, e)[0])
    step = 0.02
    while step > 5e-4:
        e = min((e - step, e, e + step), key=lambda e: _loss(x, y, max(e, 0.01))[0])
        e = max(e, 0.01)
        step *= 0.7
    _, a, b = _loss(x, y, e)
    return a, b, e


def _loss(x: Floats, y: Floats, e: float) -> tuple[float, float, float]:
    unit = float(x.max()) ** e  # else 1 and 10 ** 14 stand side by side
    columns = np.stack([np.ones_like(x), x**e / unit], axis=1)
    weight = 1.0 / y
    a, b = non_negative(columns * weight[:, None], y * weight)
    for _ in range(3):
        rest = (columns @ np.array([a, b]) - y) / y
        robust = np.sqrt(_huber(rest)) * weight
        a, b = non_negative(columns * robust[:, None], y * robust)
    rest = (columns @ np.array([a, b]) - y) / y
    # Of the absolute residuals: what Huber's bound itself depends on must not choose the exponent.
    return float(np.abs(rest).sum()), float(a), float(b) / unit


def _drawn_exponents(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    groups = [np.flatnonzero(x == value) for value in np.unique(x)]
    if max(map(len, groups)) < 2:
        return np.zeros(0)
    drawn = []
    for _ in range(_RESAMPLES):
        places = np.concatenate([rng.choice(group, len(group)) for group in groups])
        coarse = min(_EXPONENTS.tolist(), key=lambda e: _loss(x[places], y[places], e)[0])
        drawn.append(coarse)
    return np.array(drawn)
