"""What re-ranking chooses from: the model server's search, pins beside it, late filters."""

from __future__ import annotations

import asyncio

import numpy as np

from recsys.answers.asked import Asked
from recsys.deadline import Deadline
from recsys.errors import StageError
from recsys.features.batch import Int32s
from recsys.inference.live import LiveBundle
from recsys.inference.user_reading import UserContext
from recsys.ranking import filters
from recsys.ranking.popular import popular
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import Applying


async def candidates(
    live: LiveBundle,
    asked: Asked,
    user: UserContext,
    rules: Applying,
    *,
    k: int,
    deadline: Deadline,
) -> RankedItems:
    """Give ``k`` candidates, best first, then the pinned items that are not among them.

    Raises:
        StageError: when the model server does not answer, or not in time.
    """
    request = asked.request
    searching = live.recommend(
        user,
        excluded=_excluded_from_search(asked, user),
        exclude_history=request.exclude_seen,
        k=k,
        deadline=deadline,
        item_filter=asked.item_filter,
    )
    if not rules.pins:
        return await searching
    rows = np.array([pin.row for pin in rules.pins], dtype=np.int32)
    # Side by side in the same process: pins cost no second wait.
    found, pinned = await asyncio.gather(
        searching, live.rank(user, rows, deadline=deadline), return_exceptions=True
    )
    if isinstance(found, BaseException):
        raise found
    if isinstance(pinned, BaseException):
        if not found.unranked or not isinstance(pinned, StageError):
            raise pinned
        pinned = popular(live.bundle, rows)  # the same ranker failed: their place is fixed
    return found.with_further(pinned)


def allowed(ranked: RankedItems, asked: Asked, user: UserContext, rules: Applying) -> RankedItems:
    """Leave out what may not be shown: the search has done it, but pins have not been searched."""
    seen = user.history_index if asked.request.exclude_seen else filters.NOTHING
    kept = filters.keep(
        ranked.item_index,
        available=asked.bundle.available,
        excluded=(asked.excluded, seen) if rules.pins else (),
    )
    if asked.item_filter and rules.pins:
        kept &= filters.passing(ranked.item_index, asked.item_filter, asked.bundle.tags)
    return ranked if kept.all() else ranked.take(np.flatnonzero(kept))


def _excluded_from_search(asked: Asked, user: UserContext) -> Int32s:
    """Add what the user saw too long ago to be in the history that travels to the model."""
    if not asked.request.exclude_seen:
        return asked.excluded
    length = asked.bundle.encoding.history_length
    return filters.union(asked.excluded, user.history_index[:-length])
