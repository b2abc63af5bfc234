"""What is popular, from this process's memory: among users like this one, then among all."""

from __future__ import annotations

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Float32s, Int32s, Int64s
from recsys.ranking.ranked import RankedItems

_NO_TOKENS: Int64s = np.empty(0, dtype=np.int64)


def popular(
    bundle: ServedBundle,
    rows: Int32s | None = None,
    token_hashes: Int64s = _NO_TOKENS,
    *,
    limit: int | None = None,
) -> RankedItems:
    """Give the first ``limit`` of the fallback list, best first, or ``rows`` in its order.

    Where the bundle has a list for one of the user's profile tokens, its items go before the
    others, and scores fall with the place. No ranker had a say: objectives are empty, and the only
    source is ``popular`` where the bundle has a source of that name.
    """
    if rows is None:
        places = bundle.popular_order[:limit]
        overall = _listed(bundle, bundle.popular_index[places], bundle.popular_score[places])
    else:
        overall = _listed(bundle, rows, bundle.popular_score_by_row[rows]).by_score()
    segment = bundle.segments.of_user(token_hashes.tolist()) if len(token_hashes) else None
    if segment is None:
        return overall
    theirs = _listed(bundle, segment.item_index, segment.score)
    if rows is not None:
        theirs = theirs.take(np.flatnonzero(np.isin(theirs.item_index, rows)))
    return theirs.with_further(overall).by_place()


def _listed(bundle: ServedBundle, item_index: Int32s, score: Float32s) -> RankedItems:
    sources = bundle.dimensions.sources
    source_score = np.zeros((len(item_index), len(sources)), dtype=np.float32)
    if "popular" in sources:
        source_score[:, sources.index("popular")] = score
    return RankedItems(
        item_index=item_index,
        score=score,
        objective_score=np.empty((len(item_index), 0), dtype=np.float32),
        source_score=source_score,
    )
