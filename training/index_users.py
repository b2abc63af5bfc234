"""Users whom a run's approximate index is set on: requests as they were, before the test.

Axes: ``Q`` requests.
"""

from __future__ import annotations

import numpy as np

from training.prepared import Context, Prepared, Sources
from training.progress import Progress
from training.questions import encoded

NUM_REQUESTS = 1_024
"""A quarter of them, those with the most scattered histories, is a kind of its own."""


def index_users(prepared: Prepared, sources: Sources, progress: Progress) -> Context:
    """Give ``[Q, ...]`` users just before an interaction of theirs, as the model server sees them.

    Drawn from what the ranker learns from, the last of the log before the test; nothing of the test
    is looked at. Who acts often asks often, and is drawn as often.
    """
    past, split = sources.interactions, prepared.split
    late = (past.time_ms >= split.ranker_from_ms) & (past.time_ms < split.test_from_ms)
    rows = np.flatnonzero(late)
    rng = np.random.default_rng(prepared.recipe.seed)
    if len(rows) > NUM_REQUESTS:
        rows = np.sort(rng.choice(rows, NUM_REQUESTS, replace=False))
    ids = np.array(past.user_ids, dtype=object)[past.user[rows]]
    moments_ms = past.time_ms[rows] - 1
    return encoded(sources.users, ids, moments_ms, prepared.encoding, progress, "index users")
