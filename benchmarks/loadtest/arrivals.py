"""When requests are due, and who asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals_s(
    *, rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Give the send times of a Poisson process, seconds from the start, rising.

    Given their number, the arrivals of a Poisson process are independent and uniform, so we draw
    the number first and sort (Devroye 1986, VI.1.2).
    """
    count = int(rng.poisson(rate_per_s * duration_s))
    return np.sort(rng.uniform(0.0, duration_s, size=count))


def zipf_users(
    user_ids: Sequence[str], count: int, *, exponent: float, rng: np.random.Generator
) -> list[str]:
    """Draw ``count`` users, the r-th of the list with weight ``r ** -exponent``.

    Exponent 0 is uniform. The list's own order says who is frequent.
    """
    if not user_ids:
        raise ValueError("a load test needs at least one user id; found an empty list")
    weights = np.arange(1, len(user_ids) + 1, dtype=np.float64) ** -exponent
    chosen = rng.choice(len(user_ids), size=count, p=weights / weights.sum())
    return [user_ids[i] for i in chosen]
