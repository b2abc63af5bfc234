"""Calibration: whether things said to happen with probability p happen with probability p."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.bool_], *, num_bins: int = 15
) -> float:
    """Give the mean distance of predicted and observed rate over equally filled bins.

    Equal filling (rather than equal width) keeps rare events from all falling into one bin.
    NaN without rows. Source: Naeini et al. 2015; equal-mass bins after Nguyen & O'Connor 2015.
    """
    if len(labels) == 0:
        return float("nan")
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(num_bins, len(order)))
    gaps = [abs(float(probabilities[b].mean()) - float(labels[b].mean())) * len(b) for b in bins]
    return float(sum(gaps) / len(labels))


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Give the mean negative log likelihood in nats, probabilities kept 1e-7 from 0 and 1."""
    if len(labels) == 0:
        return float("nan")
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean())
