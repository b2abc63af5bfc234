"""The lists that were shown in the ranker's part of the log, and which of them can be learned from.

Axes: ``E`` lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.bundle.manifest import Objective
from recsys.data.impressions import LabelRule, ShownLists, read_shown_lists
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Int64s
from training.recipes import RankerTraining


def rankers_lists(
    log: pl.DataFrame,
    vocabulary: Vocabulary,
    config: RankerTraining,
    objectives: Sequence[Objective],
    split: TimeSplit,
) -> tuple[ShownLists, Int64s]:
    """Give the lists shown from ``ranker_from`` on, and the rows of those to learn from.

    These have a known item and an attribution window that ends before the test; where no window
    does, all count.
    """
    rules = [
        LabelRule(objective=o.name, interaction=o.interaction, min_value=o.min_value)
        for o in objectives
    ]
    recent = log.filter(pl.col("event_time_ms") >= split.ranker_from_ms)
    lists = read_shown_lists(recent, vocabulary, rules, window_ms=config.attribution_ms)
    complete = lists.time_ms + config.attribution_ms < split.test_from_ms
    if not complete.any():
        complete[:] = True
    return lists, np.flatnonzero(complete & (lists.item > 0).any(1))


def grid_ms(config: RankerTraining, split: TimeSplit) -> int:
    """Give how long one state of the items stands for all lists; short logs have at least eight."""
    return max(min(config.refresh_ms, (split.test_from_ms - split.ranker_from_ms) // 8), 1)


def drawn(rows: Int64s, limit: int, rng: np.random.Generator) -> Int64s:
    """Give at most ``limit`` of ``rows``, drawn evenly, in their order."""
    if len(rows) <= limit:
        return rows
    return np.sort(rng.choice(rows, size=limit, replace=False))
