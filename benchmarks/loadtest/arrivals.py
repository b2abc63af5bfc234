"""When requests are due, and who asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A while in which the rate goes evenly from one value to another; requests a second."""

    duration_s: float
    begin_per_s: float
    end_per_s: float

    @property
    def expected(self) -> float:
        """Requests to be expected in it."""
        return self.duration_s * (self.begin_per_s + self.end_per_s) / 2.0


def poisson_arrivals_s(*, rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Give the send times of a Poisson process, seconds from the start, rising.

    Given their number, the arrivals of a Poisson process are independent and uniform, so we draw
    the number first and sort (Devroye 1986, VI.1.2).
    """
    count = int(rng.poisson(rate_per_s * duration_s))
    return np.sort(rng.uniform(0.0, duration_s, size=count))


def curve_arrivals_s(curve: Sequence[Segment], rng: np.random.Generator) -> Floats:
    """Give the send times of a Poisson process whose rate follows ``curve``, rising.

    Each segment has a number of its own; within it the times are drawn by inverting the expected
    count (Devroye 1986, VI.1.3), ``b t + (e - b) t^2 / 2d`` of rates ``b`` to ``e`` over ``d``.
    """
    parts: list[Floats] = []
    start_s = 0.0
    for segment in curve:
        count = int(rng.poisson(segment.expected))
        mass = np.sort(rng.uniform(0.0, 1.0, size=count)) * segment.expected
        begin, slope = segment.begin_per_s, segment.end_per_s - segment.begin_per_s
        root = np.sqrt(np.maximum(begin**2 + 2.0 * slope * mass / segment.duration_s, 0.0))
        parts.append(start_s + 2.0 * mass / np.maximum(begin + root, 1e-12))
        start_s += segment.duration_s
    return np.concatenate(parts) if parts else np.empty(0)


def zipf_places(
    count_of_users: int, count: int, *, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ``count`` places of a list of users, the r-th with weight ``r ** -exponent``.

    Exponent 0 is uniform. The list's own order says who is frequent.
    """
    if count_of_users < 1:
        raise ValueError("a load test needs at least one user id; found an empty list")
    weights = np.arange(1, count_of_users + 1, dtype=np.float64) ** -exponent
    return rng.choice(count_of_users, size=count, p=weights / weights.sum())


def zipf_users(
    user_ids: Sequence[str], count: int, *, exponent: float, rng: np.random.Generator
) -> list[str]:
    """Draw ``count`` users. See ``zipf_places``."""
    places = zipf_places(len(user_ids), count, exponent=exponent, rng=rng)
    return [user_ids[place] for place in places]
