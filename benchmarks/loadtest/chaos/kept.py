"""The rate an experiment is held at: half of what the system keeps in time.

Callers who ask again as soon as they are answered get more than that: some of it late, some of it
from memory. At half of *their* rate a system may be overloaded before anything is hurt.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.loadtest.chaos.load import HOST, K
from benchmarks.loadtest.greatest_rate import Limit, Step, measure_step
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.stretch import Asking
from recsys.errors import RecsysError

LIMIT = Limit(warm_up_s=1.0, step_s=4.0, tolerance=0.15)
"""A short search: half of what it finds is used, and need not be exact."""


def kept_per_s(
    port: int, users: list[str], *, start: float, seed: int, report: Callable[[Step], None]
) -> float:
    """Give the greatest rate whose answers are all full, 99 % of them within ``LIMIT.p99_ms``.

    Raises:
        RecsysError: when no rate is kept.
    """
    asking = Asking(host=HOST, port=port, user_ids=tuple(users), k=K, seed=seed)
    return greatest_kept(lambda rate: measure_step(asking, rate, LIMIT, dict), start, report)


def greatest_kept(
    measure: Callable[[float], Step], start: float, report: Callable[[Step], None]
) -> float:
    """Search from ``start``. See ``kept_per_s``."""
    steps = find_greatest(measure, start=start, tolerance=LIMIT.tolerance, report=report)
    best = greatest(steps)
    if best is None:
        raise RecsysError(
            f"wanted a rate with p99 within {LIMIT.p99_ms:g} ms, found none down to "
            f"{min(step.rate for step in steps):g}/s ({steps[-1].refused}); give one with --rate"
        )
    return best.rate
