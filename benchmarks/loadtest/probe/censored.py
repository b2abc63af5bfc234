"""Percentiles of waits of which some were never seen to end.

A wait that was given up is known to be longer than it was watched: it is censored, and no estimate
may leave it out, since what is given up is the longest. The product-limit estimator counts it as
waiting for as long as it was watched. Where nothing is censored before the longest wait that ended,
it is the share of waits that ended in time.

Source: Kaplan & Meier 1958, "Nonparametric Estimation from Incomplete Observations", eq. 2b.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_ROUNDING = 1e-9
"""A product of shares may miss a round one by its last bits."""


def ended_by(waits: ArrayLike, ended: ArrayLike) -> tuple[Floats, Floats]:
    """Give the share of waits that ended by each time at which one did, times rising.

    ``waits[i]`` is how long wait ``i`` took, or was watched where ``ended[i]`` is false. The last
    share is below 1 where the longest wait was not seen to end. One that is given up at the very
    time at which another ends still waited then.

    >>> times, shares = ended_by([1.0, 2.0, 3.0, 9.0], [True, False, True, False])
    >>> times.tolist(), shares.tolist()
    ([1.0, 3.0], [0.25, 0.625])
    """
    waits, ended = np.asarray(waits, dtype=np.float64), np.asarray(ended, dtype=bool)
    times, counts = np.unique(waits[ended], return_counts=True)
    at_risk = len(waits) - np.searchsorted(np.sort(waits), times, side="left")
    shares: Floats = 1.0 - np.cumprod(1.0 - counts / at_risk, dtype=np.float64)
    return times, shares


def percentile(waits: ArrayLike, ended: ArrayLike, wanted: float) -> float | None:
    """Give the shortest time by which ``wanted`` percent had ended.

    A value that was measured: nothing is interpolated. ``None`` where so many were not seen to end:
    all that is known is that it is beyond what was watched.

    >>> percentile([1.0, 2.0, 3.0, 9.0], [True, True, True, False], 75.0)
    3.0
    >>> percentile([1.0, 2.0, 3.0, 9.0], [True, True, True, False], 99.0)
    """
    times, shares = ended_by(waits, ended)
    place = int(np.searchsorted(shares, wanted / 100.0 - _ROUNDING, side="left"))
    return float(times[place]) if place < len(times) else None


def figures(
    waits: Sequence[float], ended: Sequence[bool], wanted: Sequence[float]
) -> dict[str, float | None]:
    """Give percentiles by name (``p50``), and ``max``: the time by which all had ended."""
    found = {f"p{p:g}": percentile(waits, ended, p) for p in wanted}
    return found | {"max": percentile(waits, ended, 100.0)}
