"""What goes with the user's history, from this process's memory."""

from __future__ import annotations

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Int32s
from recsys.ranking.ranked import RankedItems
from recsys.resilience.recent_users import UserPast

_SOURCE = "item_to_item"


def similar(
    bundle: ServedBundle, past: UserPast, rows: Int32s | None = None, *, now_ms: int
) -> RankedItems:
    """Give the neighbours of a history, best first, or those of ``rows`` that are among them.

    None where there is no history, nothing is near it, or the bundle has no neighbours. No ranker
    had a say: objectives are empty, and the only source is ``item_to_item`` where the bundle has a
    source of that name.
    """
    index, score = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    if bundle.neighbours is not None and len(past.history_index):
        index, score = bundle.neighbours.scores(
            past.history_index, past.history_last_ms, now_ms=now_ms
        )
    if rows is not None:
        given = np.isin(index, rows)
        index, score = index[given], score[given]
    sources = bundle.dimensions.sources
    source_score = np.zeros((len(index), len(sources)), dtype=np.float32)
    if _SOURCE in sources:
        source_score[:, sources.index(_SOURCE)] = score
    return RankedItems(
        item_index=index,
        score=score,
        objective_score=np.empty((len(index), 0), dtype=np.float32),
        source_score=source_score,
    )
