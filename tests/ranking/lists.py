"""Candidates of a toy bundle, for tests of re-ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.ranking.ranked import RankedItems


def ranked(scores: Sequence[float], rows: Sequence[int] | None = None) -> RankedItems:
    """Give items ``rows`` (default: 1 …) with these scores, best first."""
    return RankedItems(
        item_index=np.array(rows or range(1, len(scores) + 1), dtype=np.int32),
        score=np.array(scores, dtype=np.float32),
        objective_score=np.full((len(scores), 1), 0.1, dtype=np.float32),
        source_score=np.zeros((len(scores), 1), dtype=np.float32),
    ).by_score()
