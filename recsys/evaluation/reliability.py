"""The reliability curve: what was predicted beside what came, bin by bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReliabilityCurve:
    """``M`` bins of equal numbers of rows, by rising probability."""

    predicted: Float64s
    """``[M]`` mean probability."""
    observed: Float64s
    """``[M]`` share of positives."""
    num_rows: NDArray[np.int64]
    """``[M]``; they differ by one at most."""
    lowest: Float64s
    highest: Float64s
    """``[M]`` range of the probabilities in the bin."""

    @property
    def deviation(self) -> Float64s:
        """Give ``[M]`` the standard error of ``observed``, by the binomial of ``predicted``."""
        chance = self.predicted * (1.0 - self.predicted)
        return np.sqrt(np.maximum(chance, 0.0) / np.maximum(self.num_rows, 1))


def reliability_curve(
    probabilities: NDArray[np.floating], labels: NDArray[np.bool_], *, num_bins: int = 15
) -> ReliabilityCurve:
    """Cut rows, sorted by probability, into ``num_bins`` bins of equal size.

    Equal filling (rather than equal width) keeps rare events from all falling into one bin. Fewer
    rows than bins give a bin each; no rows give none. Among equal probabilities the order of rows
    decides the bin.
    Source: DeGroot & Fienberg 1983, "The comparison and evaluation of forecasters"; equal-mass bins
    after Nguyen & O'Connor 2015.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(labels, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    edges = np.linspace(0, len(p), min(num_bins, len(p)) + 1).round().astype(np.int64)
    p, y = p[order], y[order]
    size = np.diff(edges)
    if len(size) == 0:
        nothing = np.zeros(0)
        return ReliabilityCurve(
            predicted=nothing, observed=nothing, num_rows=size, lowest=nothing, highest=nothing
        )
    return ReliabilityCurve(
        predicted=np.add.reduceat(p, edges[:-1]) / size,
        observed=np.add.reduceat(y, edges[:-1]) / size,
        num_rows=size,
        lowest=p[edges[:-1]],
        highest=p[edges[1:] - 1],
    )
