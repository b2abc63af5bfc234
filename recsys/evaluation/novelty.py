"""Novelty: how little known the shown items are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def novelty_at_k(ranked: NDArray[np.integer], popularity: NDArray[np.number], *, k: int) -> float:
    """Give the mean self-information ``-log2 p(i)`` of the shown items, in bits.

    Args:
        ranked: ``[B, K]`` item rows, 0 pads (skipped).
        popularity: ``[N + 1]`` interactions of each item in training; ``p(i)`` is its share, with
            one added to every item so that a never-seen one is finite.
        k: Places looked at.

    NaN when nothing was shown. Source: Zhou et al. 2010, "Solving the apparent diversity-accuracy
    dilemma of recommender systems".
    """
    counts = np.asarray(popularity, dtype=np.float64) + 1.0
    share = counts / counts[1:].sum()
    shown = ranked[:, :k].ravel()
    shown = shown[shown != 0]
    return float(-np.log2(share[shown]).mean()) if len(shown) else float("nan")
