"""The list of last resort: what the bundle's training window liked, from this process's memory."""

from __future__ import annotations

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Int32s
from recsys.ranking.ranked import RankedItems


def popular(bundle: ServedBundle, rows: Int32s | None = None) -> RankedItems:
    """Give the fallback list, best first, or ``rows`` in its order.

    No ranker had a say: objectives are empty, and the only source is ``popular`` where the bundle
    has a source of that name.
    """
    if rows is None:
        item_index, score = bundle.popular_index, bundle.popular_score
    else:
        item_index, score = rows, bundle.popular_score_by_row[rows]
    sources = bundle.dimensions.sources
    source_score = np.zeros((len(item_index), len(sources)), dtype=np.float32)
    if "popular" in sources:
        source_score[:, sources.index("popular")] = score
    return RankedItems(
        item_index=item_index,
        score=score,
        objective_score=np.empty((len(item_index), 0), dtype=np.float32),
        source_score=source_score,
    ).by_score()
