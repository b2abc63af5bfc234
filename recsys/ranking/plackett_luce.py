"""A whole list by chance: drawn without putting back, each place in proportion to what is left.

Adding Gumbel noise to log-weights and sorting draws from the Plackett-Luce model: one pass instead
of one draw a place.

Source: Yellott 1977; Kool, van Hoof & Welling 2019, "Stochastic Beams and Where to Find Them",
section 2.3 (the Gumbel-top-k trick). The chance of each place given those above is equation 1 of
Plackett 1975.

Axes: ``C`` candidates, ``k`` places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.ranking.similarity import Float64s


def gumbel_top_k(
    log_weight: Float64s, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], Float64s]:
    """Draw ``min(k, C)`` places; gives them in order, and the chance of each given those above.

    Args:
        log_weight: ``[C]`` finite; only differences count.
        k: Length wanted.
        rng: One uniform number a candidate is taken from it.
    """
    k = min(k, len(log_weight))
    if k == 0:
        return np.empty(0, dtype=np.intp), np.empty(0)
    exponential = -np.log1p(-rng.random(len(log_weight)))
    noisy = log_weight - np.log(np.maximum(exponential, np.finfo(np.float64).tiny))
    if k < len(noisy):
        best = np.argpartition(-noisy, k - 1)
        chosen, rest = best[:k], best[k:]
    else:
        chosen, rest = np.arange(k, dtype=np.intp), np.empty(0, dtype=np.intp)
    chosen = chosen[np.argsort(-noisy[chosen], kind="stable")]
    own = log_weight[chosen]
    # What is left at each place, from the last place up: the rest, then the chosen ones.
    rest_total = np.logaddexp.reduce(log_weight[rest]) if len(rest) else -np.inf
    left = np.logaddexp.accumulate(np.concatenate(([rest_total], own[::-1])))[:0:-1]
    return chosen, np.exp(own - left)
