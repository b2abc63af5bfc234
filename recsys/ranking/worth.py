"""What each candidate is worth at the next place of a list, given what stands above it.

The seam between diversity (which changes worth as the list grows) and whoever picks from it:
``choose.py`` place by place, by the policy of exploration.

Axes: ``C`` candidates.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.ranking.similarity import Float64s


class Worth(Protocol):
    """Worth of the candidates, in the units of their relevance (log-odds)."""

    slope: float
    """Change of an item's worth when its relevance changes by 1."""
    is_constant: bool
    """Whether worth never depends on the list above."""

    def now(self) -> Float64s:
        """Give ``[C]`` at the next place. Worth of items already chosen is without meaning."""

    def add(self, place: int) -> None:
        """Take note that the candidate at ``place`` stands next in the list."""


class RelevanceAlone:
    """``Worth`` without diversity."""

    slope = 1.0
    is_constant = True

    def __init__(self, relevance: Float64s) -> None:
        """Take ``[C]`` relevance."""
        self._relevance = relevance

    def now(self) -> Float64s:
        """See ``Worth.now``."""
        return self._relevance

    def add(self, place: int) -> None:
        """See ``Worth.add``."""


def spread_of(relevance: Float64s) -> float:
    """Give the distance from best to worst, 1 where all are equal: the unit of diversity.

    With it ``diversity`` means the same for every scale of scores.
    """
    spread = float(np.ptp(relevance)) if len(relevance) else 0.0
    return spread if spread > 0 else 1.0
