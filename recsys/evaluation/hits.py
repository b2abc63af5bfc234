"""Which answers were right: the table all list metrics are computed from.

Axes: ``B`` users, ``K`` places of the list. Item 0 is padding and is never right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.features.batch import Bools, Int64s, Ragged


def hit_table(ranked: NDArray[np.integer], relevant: Ragged) -> Bools:
    """Tell for each place whether the item there is relevant to the user.

    Args:
        ranked: ``[B, K]`` item rows, best first, 0 pads.
        relevant: Row ``b`` holds the relevant items of user ``b`` (distinct, none of them 0).

    Returns:
        ``[B, K]`` bool. An item listed twice counts at its first place only.

    Raises:
        InputError: when the two disagree about B.
    """
    if len(ranked) != len(relevant):
        raise InputError(f"{len(ranked)} lists but {len(relevant)} sets of relevant items")
    users = np.repeat(np.arange(len(relevant)), np.diff(relevant.offsets))
    span = 1 + max(int(ranked.max(initial=0)), int(relevant.values.max(initial=0)))
    right = np.unique(users * span + relevant.values.astype(np.int64))
    wanted = np.arange(len(ranked))[:, None] * span + ranked.astype(np.int64)
    hits: Bools = np.isin(wanted, right) & (ranked != 0)
    for place in range(1, ranked.shape[1]):
        column = hits[:, place]
        if column.any():
            column &= (ranked[:, :place] != ranked[:, place, None]).all(axis=1)
    return hits


def num_relevant(relevant: Ragged) -> Int64s:
    """Give ``[B]`` the number of relevant items of each user."""
    return np.diff(relevant.offsets).astype(np.int64)
