"""What any recommender must beat: popularity, popularity of late, the user's own habits, EASE.

Each gives dense scores ``[B, N + 1]`` of users (rows of a batch) over all items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recsys.clock import DAY_MS
from recsys.data.interactions import Interactions
from recsys.features.batch import Int64s
from recsys.retrieval.ease import MAX_ITEMS, fit_ease

Baseline = Callable[[Int64s], Tensor]
"""From user codes ``[B]`` to scores ``[B, N + 1]``."""

RECENT_DAYS = 30
EASE_PENALTY = 500.0


def baselines(past: Interactions, *, num_items: int, now_ms: int) -> dict[str, Baseline]:
    """Give the baselines, fitted on interactions that all lie before ``now_ms``.

    ``personal_frequency`` counts how often the user had the item; ties, and the places after a
    short history, go by popularity of the last 30 days, without which it would be weaker than it
    need be. ``ease`` is the published model (binary matrix, penalty 500), left out for catalogues
    too large for it.
    """
    size = num_items + 1
    starts = np.searchsorted(past.user, np.arange(len(past.user_ids) + 1))

    def count(mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.bincount(past.item[mask], minlength=size)).float()

    everything = count(np.ones(len(past), dtype=np.bool_))
    recent = count(past.time_ms >= now_ms - RECENT_DAYS * DAY_MS)

    def own(users: Int64s) -> Tensor:
        scores = torch.zeros(len(users), size)
        for row, user in enumerate(users.tolist()):
            items = past.item[starts[user] : starts[user + 1]]
            scores[row] = torch.from_numpy(np.bincount(items, minlength=size))
        return scores

    tie_break = recent / (recent.max() + 1.0) + everything / (everything.max() + 1.0) * 1e-3
    found: dict[str, Baseline] = {
        "popular": lambda users: everything.expand(len(users), -1),
        "popular_30d": lambda users: recent.expand(len(users), -1),
        "personal_frequency": lambda users: own(users) + tie_break * 0.999,
    }
    if num_items <= MAX_ITEMS:
        pairs = np.unique(past.user * size + past.item)
        weights = fit_ease(
            torch.from_numpy(pairs // size), torch.from_numpy(pairs % size),
            torch.ones(len(pairs)), num_users=len(past.user_ids), num_items=num_items,
            penalty=EASE_PENALTY,
        )  # fmt: skip
        found["ease"] = lambda users: (own(users) > 0).float() @ weights
    return found
