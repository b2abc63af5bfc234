"""The greatest rate that is kept: growing, then bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Tried(Protocol):
    """A rate that was measured."""

    @property
    def rate(self) -> float:
        """Requests a second."""

    @property
    def kept(self) -> bool:
        """Whether the objective held."""


Trial = TypeVar("Trial", bound=Tried)
_LEAST_RATE = 0.5


def find_greatest(
    measure: Callable[[float], Trial],
    *,
    start: float,
    tolerance: float,
    report: Callable[[Trial], None],
) -> list[Trial]:
    """Raise by half (or halve) from ``start`` until one rate is kept and one refused, then bisect.

    Ends when the two are within ``tolerance`` of each other, or nothing down to half a request a
    second is kept. Gives every step in order of measuring; ``greatest`` picks the answer.
    """
    steps: list[Trial] = []
    kept, refused = 0.0, float("inf")
    rate = start
    while refused == float("inf") or kept == 0.0 or refused / kept > 1.0 + tolerance:
        step = measure(rate)
        steps.append(step)
        report(step)
        if step.kept:
            kept = max(kept, rate)
        else:
            refused = min(refused, rate)
        if refused == float("inf"):
            rate = kept * 1.5
        elif kept == 0.0:
            rate = refused / 2
            if rate < _LEAST_RATE:
                break
        else:
            rate = (kept * refused) ** 0.5
    return steps


def greatest(steps: Sequence[Trial]) -> Trial | None:
    """Give the kept step of the highest rate that no lower refused one contradicts.

    Luck keeps a rate above one that was refused; such a rate does not count.
    """
    lowest_refused = min((s.rate for s in steps if not s.kept), default=float("inf"))
    below = [s for s in steps if s.kept and s.rate < lowest_refused]
    return max(below, key=lambda s: s.rate, default=None)
