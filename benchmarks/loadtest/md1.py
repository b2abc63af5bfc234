"""The M/D/1 queue: what a right generator must measure of one worker of constant service time.

Poisson arrivals, one worker, first come first served, service of ``D`` seconds, load ``rho`` below
1. Source: Franx 2001, "A simple solution for the M/D/c waiting time distribution", for one
worker; the queue's stationary lengths by Ramaswami 1988, "A stable recursion for the steady
state vector in Markov chains of M/G/1 type", in which nothing is subtracted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_REST = 1e-12
"""Probability left out of the queue's lengths."""


def queue_lengths(rho: float) -> Floats:
    """Give the probabilities of 0, 1, 2 … in the system, until what is left is negligible.

    Raises:
        ValueError: when ``rho`` is not in (0, 1).
    """
    if not 0.0 < rho < 1.0:
        raise ValueError(f"wanted a load between 0 and 1, found {rho}")
    # The tail falls as x^-n, x the root above 1 of x = exp(rho (x - 1)).
    root = 1.0 - 2.0 * math.log(rho) / rho  # right of it: Newton's steps fall to it
    for _ in range(60):
        root -= (root - math.exp(rho * (root - 1.0))) / (1.0 - rho * math.exp(rho * (root - 1.0)))
    count = max(16, math.ceil(-math.log(_REST) / math.log(root)))
    arrivals = _poisson(rho, count + 1)
    from_on = np.cumsum(arrivals[::-1])[::-1]  # P(at least k arrive during one service)
    lengths = np.zeros(count)
    lengths[0] = 1.0 - rho
    for n in range(1, count):
        more = np.dot(lengths[1:n], from_on[n:1:-1]) if n > 1 else 0.0
        lengths[n] = (lengths[0] * from_on[n] + more) / (1.0 - from_on[1])
    return lengths


def waited_at_most(rho: float, waits: Floats) -> Floats:
    """Give the probability of waiting at most ``waits`` (in units of ``D``, at least 0)."""
    at_most = np.cumsum(queue_lengths(rho))
    found = np.empty(len(waits))
    for place, wait in enumerate(waits.tolist()):
        services = math.floor(wait) + 1
        if services >= len(at_most):
            found[place] = 1.0
            continue
        terms = _poisson(rho * (services - wait), services)
        found[place] = float(np.dot(at_most[services:0:-1], terms))
    return np.minimum(found, 1.0)


def sojourn_percentile(rho: float, percentile: float) -> float:
    """Give a percentile of waiting and service together, in units of ``D``."""
    low, high = 0.0, 1.0
    wanted = percentile / 100.0
    while waited_at_most(rho, np.array([high]))[0] < wanted:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if waited_at_most(rho, np.array([middle]))[0] < wanted:
            low = middle
        else:
            high = middle
    return 1.0 + high


def sojourns(arrivals_s: Floats, service_s: float) -> Floats:
    """Give the time in the system of each of these very arrivals: Lindley's recursion.

    ``W[n] = max(0, W[n-1] + D - (t[n] - t[n-1]))`` from an empty system; with ``S[n] = n D - t[n]``
    that is ``S[n] - min(S[0 … n])``.
    """
    sums = np.arange(len(arrivals_s)) * service_s - arrivals_s
    waits: Floats = sums - np.minimum.accumulate(sums)
    return waits + service_s


def _poisson(mean: float, count: int) -> Floats:
    """Give the probabilities of 0 … ``count - 1``."""
    terms = np.empty(count)
    terms[0] = math.exp(-mean)
    for n in range(1, count):
        terms[n] = terms[n - 1] * mean / n
    return terms
