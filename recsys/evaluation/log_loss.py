"""Log loss: how surprised the labels leave somebody who believed the probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEAREST = 1e-7
"""Distance kept from 0 and 1: one confident error must not make the mean infinite."""


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Give the mean of ``-log p`` over positives and ``-log(1 - p)`` over negatives, in nats.

    Probabilities are kept ``NEAREST`` from 0 and 1. NaN without rows.
    Source: Good 1952, "Rational decisions" (the logarithmic score).

    >>> round(log_loss(np.array([0.5, 0.5]), np.array([True, False])), 4)
    0.6931
    """
    if len(labels) == 0:
        return float("nan")
    p = np.clip(probabilities.astype(np.float64), NEAREST, 1 - NEAREST)
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean())
