"""A bundle's items as the log has described them since: withdrawn, offered again, changed.

Written into the bundle in place, from the thread that follows the log: each value is one element of
an array, and a request that reads it sees the old one or the new one.
"""

from __future__ import annotations

from collections.abc import Sequence

from recsys.bundle.served import NO_CATEGORY, ServedBundle
from recsys.data.item_tokens import event_tokens
from recsys.events.item_follower import ItemChange
from recsys.events.schema import ItemEvent


class LatestWords:
    """Picks, of changes to items, those that are news: by event time, then by place in the log."""

    def __init__(self) -> None:
        self._said_ms: dict[str, int] = {}

    def of(self, changes: Sequence[ItemChange]) -> dict[str, ItemEvent]:
        """Give the latest word on each item that is newer than all given before."""
        latest: dict[str, ItemEvent] = {}
        for change in changes:
            event = change.event
            if event.event_time_ms >= self._said_ms.get(event.item_id, 0):
                self._said_ms[event.item_id] = event.event_time_ms
                latest[event.item_id] = event
        return latest


class LiveItems:
    """Keeps the items of a ``ServedBundle`` as the log says. See ``events/item_follower.py``."""

    def __init__(self, bundle: ServedBundle) -> None:
        """``bundle``'s arrays are this object's to write."""
        self._bundle = bundle
        self._latest = LatestWords()

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take in changes; items the bundle does not know have no row to be described in."""
        bundle = self._bundle
        index_of, column_of = bundle.vocabulary.index_of, bundle.vocabulary.category_index_of
        tags: dict[int, Sequence[str]] = {}
        for item_id, event in self._latest.of(changes).items():
            row = index_of.get(item_id)
            if row is None:
                continue
            bundle.available[row] = event.available
            if event.available:  # a withdrawal need not say again what the item was
                bundle.title[row] = event.title
                bundle.category_index[row] = column_of.get(event.category, NO_CATEGORY)
                tags[row] = event_tokens(event)
        if tags:
            bundle.tags.change(tags)
