"""Lists out of this process's memory: the rungs ``similar`` and ``popular``.

::

    neighbours of the user's history ──► popular among users like this one ──► popular among all

Nothing here waits. Both lists are filtered as far as is known, and scored by place where they are
joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Int32s
from recsys.models.filter_tokens import ItemFilter
from recsys.ranking import filters
from recsys.ranking.popular import popular
from recsys.ranking.ranked import RankedItems
from recsys.ranking.similar import similar
from recsys.resilience.recent_users import UserPast
from recsys.wire import Rung

_FIRST_LOOK = 1_000
"""Popular items looked at first: sorting out a million for a list of ten would take longer than the
whole of a full answer."""


class FromMemory(NamedTuple):
    """A list and where it comes from."""

    rung: Rung
    ranked: RankedItems
    said: str = ""
    """More about it, for the answer."""


def choose(
    bundle: ServedBundle,
    past: UserPast,
    *,
    excluded: Sequence[Int32s],
    item_filter: ItemFilter,
    needed: int,
    pinned: Int32s,
    now_ms: int,
) -> FromMemory:
    """Give at least ``needed`` items that may be shown where there are so many, then ``pinned``.

    Args:
        bundle: What is served.
        past: What is known of the user.
        excluded: Lists of rows that may not be shown.
        item_filter: Which of the others may be.
        needed: Items re-ranking wants to choose from.
        pinned: Rows that rules put at a place; they follow where the list has not got them.
        now_ms: The moment of the request.
    """

    def allowed(ranked: RankedItems) -> RankedItems:
        kept = filters.keep(ranked.item_index, available=bundle.available, excluded=excluded)
        if item_filter:
            kept &= filters.passing(ranked.item_index, item_filter, bundle.tags)
        return ranked if kept.all() else ranked.take(np.flatnonzero(kept))

    near = allowed(similar(bundle, past, now_ms=now_ms))
    limit = max(_FIRST_LOOK, 4 * needed)
    while True:
        rest = allowed(popular(bundle, token_hashes=past.token_hashes, limit=limit))
        if len(near) + len(rest) >= needed or limit >= len(bundle.popular_index):
            break
        limit *= 8
    ranked = near.with_further(rest).by_place() if len(near) else rest
    ranked = ranked.first(needed)
    if len(pinned):
        ranked = ranked.with_further(allowed(popular(bundle, pinned)))
    return FromMemory("similar" if len(near) else "popular", ranked, _said(bundle, past, near))


def order(bundle: ServedBundle, past: UserPast, rows: Int32s, *, now_ms: int) -> FromMemory:
    """Give all of ``rows``, in the order of the same lists."""
    near = similar(bundle, past, rows, now_ms=now_ms)
    rest = popular(bundle, rows, past.token_hashes)
    if not len(near):
        return FromMemory("popular", rest, _said(bundle, past, near))
    return FromMemory("similar", near.with_further(rest).by_place())


def _said(bundle: ServedBundle, past: UserPast, near: RankedItems) -> str:
    segment = bundle.segments.of_user(past.token_hashes.tolist())
    if len(near) or segment is None:
        return ""
    return f"popular among {segment.num_users} users who share a profile token"
