"""Fits ``y = a + b * x ** e`` to measured points, and says how far the exponent can be trusted.

For one exponent the best ``a`` and ``b`` are a linear problem, so only the exponent is searched.
Residuals are relative (a point of a million items must not outvote one of ten thousand) and count
linearly beyond a bound (Huber 1964), so that one disturbed point does not turn the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
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
_FLAT = 1.5
"""A constant is the law when its residuals are no more than so many times those of the best."""


class PowerLaw(msgspec.Struct, frozen=True, kw_only=True):
    """``fixed + factor * x ** exponent``, with what is known of how sure that is."""

    fixed: float
    factor: float
    exponent: float
    exponent_low: float | None
    """95 % of a bootstrap over the repeats at each x; None where none was drawn."""
    exponent_high: float | None
    x_low: float
    """Measured from here …"""
    x_high: float
    """… to here; beyond is extrapolated."""
    error: float
    """Median of the relative differences of the points from the curve."""

    def __call__(self, x: float) -> float:
        """Give the curve at ``x``."""
        return self.fixed + self.factor * math.pow(x, self.exponent)

    def is_measured_at(self, x: float) -> bool:
        """Whether ``x`` lies between measured points."""
        return self.x_low <= x <= self.x_high


def fit_power_law(
    x: Sequence[float],
    y: Sequence[float],
    *,
    exponent: float | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> PowerLaw:
    """Fit points, several of which may share an ``x`` (repeats).

    ``a`` and ``b`` are not negative: a cost has no negative part. Where a constant is hardly
    further from the points, it is the law: factor and exponent are 0. ``exponent`` fixes it, where
    it is known and what is wanted is what lies beyond. Repeats of one x are drawn again with
    replacement ``resamples`` times for the interval, so that every x stays in.

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
    if exponent is not None:
        _, factors, others = _losses(xs, ys, np.array([exponent]))
        a, b, e = float(factors[0]), float(others[0]), exponent
    else:
        a, b, e = _best(xs, ys)
    low = high = None
    if b and exponent is None:
        drawn = _drawn_exponents(xs, ys, resamples, np.random.default_rng(seed))
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else (None, None)
    error = float(np.median(np.abs(a + b * xs**e - ys) / ys))
    return PowerLaw(
        fixed=a, factor=b, exponent=e, exponent_low=low, exponent_high=high,
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
        robust = np.sqrt(_huber_rows(rest[None])[0]) * weight
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


def _best(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Give ``a``, ``b``, ``e``: the exponent from a grid, then finer around the best."""
    grid = _EXPONENTS
    for finer in (0.02, 0.002):
        loss, a, b = _losses(x, y, grid)
        best = int(np.argmin(loss))
        around = float(grid[best])
        grid = np.clip(around + finer * np.arange(-15, 16) / 10, 0.01, None)
    loss, a, b = _losses(x, y, grid)
    best = int(np.argmin(loss))
    constant = _constant(y)
    if np.abs(constant / y - 1.0).sum() <= _FLAT * loss[best] + 1e-9 * len(y):
        return constant, 0.0, 0.0
    return float(a[best]), float(b[best]), float(grid[best])


def _constant(y: Floats) -> float:
    """Give the constant with the least sum of absolute relative residuals: a weighted median."""
    order = np.argsort(y)
    weight = np.cumsum(1.0 / y[order])
    return float(y[order][np.searchsorted(weight, weight[-1] / 2)])


def _losses(x: Floats, y: Floats, exponents: Floats) -> tuple[Floats, Floats, Floats]:
    """Give for each exponent the sum of absolute relative residuals, ``a`` and ``b``.

    Of the absolute residuals: the exponent must not be chosen by a bound that depends on it.
    """
    unit = float(x.max())  # else 1 and 10 ** 14 stand side by side
    power = (x / unit) ** exponents[:, None]
    weight = np.ones_like(power)
    for _ in range(4):
        a, b = _two_weights(1.0 / y, power / y, weight)
        rest = (a[:, None] + b[:, None] * power) / y - 1.0
        weight = _huber_rows(rest)
    return np.abs(rest).sum(axis=1), a, b / unit**exponents


def _two_weights(ones: Floats, power: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Solve ``a * ones + b * power = 1`` by weighted least squares, neither below 0, row by row."""
    s11 = (weight * ones * ones).sum(axis=1)
    s12 = (weight * ones * power).sum(axis=1)
    s22 = (weight * power * power).sum(axis=1)
    t1, t2 = (weight * ones).sum(axis=1), (weight * power).sum(axis=1)
    determinant = s11 * s22 - s12 * s12
    safe = np.where(determinant > 1e-15 * s11 * s22, determinant, np.inf)
    a, b = (t1 * s22 - t2 * s12) / safe, (t2 * s11 - t1 * s12) / safe
    alone_a, alone_b = t1 / s11, t2 / s22
    one_only = (a < 0) | (b < 0) | ~np.isfinite(safe)
    # With one column the loss is t0 - t * t / s: the better of the two.
    takes_a = one_only & (t1 * alone_a > t2 * alone_b)
    a = np.where(one_only, np.where(takes_a, alone_a, 0.0), a)
    b = np.where(one_only, np.where(takes_a, 0.0, alone_b), b)
    return a, b


def _huber_rows(rest: Floats) -> Floats:
    scale = 1.4826 * np.median(np.abs(rest), axis=1, keepdims=True)
    bound = np.where(scale < 1e-9, np.inf, _HUBER * scale)
    weight: Floats = np.minimum(1.0, bound / np.maximum(np.abs(rest), 1e-12))
    return weight


def _drawn_exponents(x: Floats, y: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    groups = [np.flatnonzero(x == value) for value in np.unique(x)]
    if max(map(len, groups)) < 2:
        return np.zeros(0)
    drawn = np.zeros(resamples)
    for n in range(resamples):
        places = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn[n] = _EXPONENTS[np.argmin(_losses(x[places], y[places], _EXPONENTS)[0])]
    return drawn
