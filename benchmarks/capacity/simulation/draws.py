"""Random numbers drawn a block at a time: one of NumPy's costs more than an event."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 8192


class Draws:
    """Draws of one stream, in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._uniform: list[float] = []
        self._exponential: list[float] = []

    def uniform(self) -> float:
        """Give a number of [0, 1)."""
        if not self._uniform:
            self._uniform = self._rng.random(_BLOCK).tolist()
        return self._uniform.pop()

    def exponential(self, mean: float) -> float:
        """Give an exponential one."""
        if not self._exponential:
            self._exponential = self._rng.standard_exponential(_BLOCK).tolist()
        return mean * self._exponential.pop()

    def below(self, count: int) -> int:
        """Give one of 0 … ``count - 1``."""
        return int(self.uniform() * count)


class Dispersion:
    """How many times its mean something takes: drawn from measured quantiles, mean 1.

    ``quantiles``: rising pairs of a probability and a factor; between two it is a line, below the
    first and above the last the nearest. Without any it is always 1.
    """

    def __init__(self, draws: Draws, quantiles: Sequence[tuple[float, float]] = ()) -> None:
        self._draws = draws
        table: list[float] = []
        if quantiles:
            at = (np.arange(1024) + 0.5) / 1024
            found = np.interp(at, [q for q, _ in quantiles], [factor for _, factor in quantiles])
            table = (found / found.mean()).tolist()
        self._table = table

    def __call__(self) -> float:
        """Give a factor."""
        table = self._table
        return table[int(self._draws.uniform() * 1024)] if table else 1.0
