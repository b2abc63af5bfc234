"""The user-item matrix that neighbours are fitted on, from the interactions."""

from __future__ import annotations

import numpy as np
import torch

from recsys.data.interactions import Interactions
from training.prepared import Edges


def edges_of(past: Interactions, *, num_items: int, now_ms: int, half_life_days: float) -> Edges:
    """Give distinct (user, item) with a weight that halves every half-life since the latest."""
    span = num_items + 1
    pair = past.user * span + past.item
    pairs, inverse = np.unique(pair, return_inverse=True)
    last_ms = np.zeros(len(pairs), dtype=np.int64)
    np.maximum.at(last_ms, inverse, past.time_ms)
    age_days = (now_ms - last_ms) / 86_400_000.0
    # The square root, because the neighbours are fitted on products of two weights.
    weight = np.sqrt(np.exp2(-age_days / half_life_days))
    return Edges(
        user=torch.from_numpy(pairs // span),
        item=torch.from_numpy(pairs % span),
        weight=torch.from_numpy(weight.astype(np.float32)),
        num_users=len(past.user_ids),
        counts=torch.from_numpy(np.bincount(past.item, minlength=span)),
    )
