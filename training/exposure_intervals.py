"""AUC and gAUC of exposures with intervals over users.

A user's exposures hang together, so resamples draw users. Axes: ``P`` exposures, ``R`` resamples.
Source: Efron & Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.grouped_auc import auc_by_group

NUM_RESAMPLES = 200


def auc_interval(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    user: NDArray[np.integer],
    *,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Give where 95 % of the resamples' AUC lie. Ties count as they happen to lie."""
    _, code = np.unique(user, return_inverse=True)
    order = np.argsort(scores, kind="stable")
    code, positive = code[order], labels[order]
    num_users = int(code.max()) + 1
    found = []
    for _ in range(NUM_RESAMPLES):
        weight = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)[code]
        negatives = np.cumsum(weight * ~positive)
        wins = (weight * positive * negatives).sum()
        found.append(wins / ((weight * positive).sum() * negatives[-1]))
    return _interval(np.array(found))


def grouped_auc_interval(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    user: NDArray[np.integer],
    *,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Give where 95 % of the resamples' gAUC lie."""
    value, rows = auc_by_group(scores, labels, user)
    value, rows = value[~np.isnan(value)], rows[~np.isnan(value)]
    drawn = rng.integers(len(value), size=(NUM_RESAMPLES, len(value)))
    return _interval((value * rows)[drawn].sum(axis=1) / rows[drawn].sum(axis=1))


def _interval(found: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(found, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)
