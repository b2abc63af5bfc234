"""Calibration error: whether things said to happen with probability p happen that often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.reliability import reliability_curve


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.bool_], *, num_bins: int = 15
) -> float:
    """Give the mean distance of predicted and observed rate over equally filled bins.

    ``sum_m (n_m / n) |predicted_m - observed_m|`` over the bins of ``reliability_curve``. Even
    perfect probabilities are not at 0: with ``n`` rows the noise of a bin is about
    ``sqrt(p (1 - p) num_bins / n)``. NaN without rows.
    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning",
    eq. 1, with equal-mass instead of equal-width bins.

    >>> p = np.array([0.2, 0.2, 0.8, 0.8])
    >>> round(expected_calibration_error(p, p > 0.5, num_bins=2), 3)
    0.2
    """
    if len(labels) == 0:
        return float("nan")
    curve = reliability_curve(probabilities, labels, num_bins=num_bins)
    gap = np.abs(curve.predicted - curve.observed)
    return float((gap * curve.num_rows).sum() / len(labels))
