"""A bundle's items as the log has described them since: created, withdrawn, offered again, changed.

Written into the bundle in place, from the thread that follows the log: each value is one element of
an array, and a request that reads it sees the old one or the new one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recsys.bundle.served import NO_CATEGORY, ServedBundle
from recsys.data.item_tokens import event_tokens
from recsys.events.item_follower import ItemChange
from recsys.events.schema import ItemEvent
from recsys.models.created_items import created_key
from recsys.telemetry import CATALOGUE_CREATED, CATALOGUE_NOT_CREATED

logger = logging.getLogger(__name__)


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
        self._is_full = False

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take in changes; an item that nobody knows yet gets a row where it is offered."""
        bundle = self._bundle
        index_of, column_of = bundle.vocabulary.index_of, bundle.vocabulary.category_index_of
        tags: dict[int, Sequence[str]] = {}
        offered: list[int] = []
        for item_id, event in self._latest.of(changes).items():
            row = index_of.get(item_id) or self._added(event)
            if row is None:
                continue
            if not event.available:
                bundle.available[row] = False
                continue  # a withdrawal need not say again what the item was
            bundle.title[row] = event.title
            bundle.category_index[row] = column_of.get(event.category, NO_CATEGORY)
            tags[row] = event_tokens(event)
            offered.append(row)
        if tags:
            bundle.tags.change(tags)
        bundle.available[offered] = True

    def _added(self, event: ItemEvent) -> int | None:
        """Give a new item a row; ``None`` where it is not offered or there is no room."""
        bundle = self._bundle
        if not event.available or bundle.created.row_of(created_key(event.item_id)):
            return None
        if bundle.room == 0:
            if not len(bundle.created):  # it takes in none at all
                return None
            if not self._is_full:
                logger.warning(
                    "bundle %s: wanted a row for item %s, found all %d rows for created items "
                    "taken (RECSYS_MAX_CREATED_ITEMS); train and publish a bundle that knows them",
                    bundle.bundle_id, event.item_id, len(bundle.created),
                )  # fmt: skip
            self._is_full = True
            CATALOGUE_NOT_CREATED.inc()
            return None
        born_ms = event.event_time_ms if event.born_ms is None else event.born_ms
        CATALOGUE_CREATED.inc()
        return bundle.add_item(
            event.item_id, title=event.title, category=event.category, born_ms=born_ms
        )
