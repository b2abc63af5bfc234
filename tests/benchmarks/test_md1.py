"""The queue's theory agrees with the queue played through, and with what is known of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.md1 import queue_lengths, sojourn_percentile, sojourns, waited_at_most


@pytest.mark.parametrize("rho", [0.05, 0.5, 0.8, 0.95])
def test_lengths_are_a_distribution_of_the_known_mean(rho: float) -> None:
    lengths = queue_lengths(rho)
    assert lengths.min() >= 0
    assert lengths.sum() == pytest.approx(1.0, abs=1e-9)
    # Pollaczek and Khinchine: rho + rho^2 / (2 (1 - rho)) of constant service.
    known = rho + rho**2 / (2 * (1 - rho))
    assert np.arange(len(lengths)) @ lengths == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_percentiles_are_those_of_the_queue_played_through(rho: float) -> None:
    rng = np.random.default_rng(3)
    arrivals_s = poisson_arrivals_s(rate_per_s=rho, duration_s=4e6, rng=rng)
    played = sojourns(arrivals_s, 1.0)
    for percentile in (50, 90, 99):
        known = sojourn_percentile(rho, percentile)
        assert np.percentile(played, percentile) == pytest.approx(known, rel=0.04), percentile


def test_who_finds_nobody_does_not_wait() -> None:
    assert waited_at_most(0.7, np.array([0.0]))[0] == pytest.approx(0.3)
    # By hand: the second comes while the first is served, the third when all is done.
    assert sojourns(np.array([0.0, 0.5, 5.0]), 1.0).tolist() == [1.0, 1.5, 1.0]


@pytest.mark.parametrize("rho", [0.0, 1.0, -2.0])
def test_a_load_that_has_no_steady_state_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match=f"found {rho}"):
        queue_lengths(rho)
