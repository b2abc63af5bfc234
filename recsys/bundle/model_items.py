"""A model's items as the log has described them since its bundle was made.

An item that is withdrawn is found no more from the next call on; one that is created, offered
again or described anew is found by what it is now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from recsys.bundle.item_describer import ItemDescriber
from recsys.bundle.live_items import LatestWords
from recsys.data.item_tokens import event_tokens
from recsys.data.vocabulary import GrowingVocabulary
from recsys.events.item_follower import ItemChange
from recsys.events.schema import ItemEvent
from recsys.models.created_items import created_key
from recsys.models.serving import TorchServingModel

logger = logging.getLogger(__name__)

ITEMS_A_TURN = 64
"""Embedded in one turn: three milliseconds, which is what a request may have to wait. Half as many
take two thirds of that, so a burst would wait for twice as many requests."""


class ModelItems:
    """The items of one model. See ``recsys/events/item_follower.py``."""

    def __init__(
        self,
        model: TorchServingModel,
        vocabulary: GrowingVocabulary,
        describer: ItemDescriber,
        *,
        room: int = 0,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take the model of a bundle, its vocabulary, which is added to, and its describer.

        Args:
            model: Written in turns.
            vocabulary: Of the bundle.
            describer: Of the bundle.
            room: Most items that may be added, no more than ``model`` has room for.
            turn: What is held while the model is written.
        """
        self._served = model.items
        self._vocabulary = vocabulary
        self._describer = describer
        self._room = room
        self._turn = turn
        self._latest = LatestWords()
        self._is_full = False

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take in changes, in turns; an item that nobody knows gets a row where it is offered."""
        words = list(self._latest.of(changes).values())
        for begin in range(0, len(words), ITEMS_A_TURN):
            with self._turn():
                self._take_in(words[begin : begin + ITEMS_A_TURN])

    def _take_in(self, words: Sequence[ItemEvent]) -> None:
        index_of = self._vocabulary.index_of
        known = {row: event for event in words if (row := index_of.get(event.item_id))}
        self._describe({row: event for row, event in known.items() if event.available})
        known |= self._added(list(self._new(words)))
        if known:
            self._served.change(
                list(known),
                [event.available for event in known.values()],
                {row: event_tokens(event) for row, event in known.items() if event.available},
            )

    def _describe(self, words: dict[int, ItemEvent]) -> None:
        """Embed anew those of which something else is said than the model knows."""
        if not words:
            return
        said = self._describer.describe(list(words.values()))
        moved = [
            place for place, row in enumerate(words) if not self._served.describes(row, said, place)
        ]
        if moved:
            rows = list(words)
            self._served.put([rows[place] for place in moved], said.take(moved))

    def _new(self, words: Sequence[ItemEvent]) -> Iterator[ItemEvent]:
        """Give the events of new items for which there is room."""
        left = self._room - len(self._served.created)
        for event in words:
            is_known = event.item_id in self._vocabulary.index_of
            if is_known or not event.available or not self._room:
                continue
            if self._served.created.row_of(created_key(event.item_id)):
                logger.warning("item %s has the key of another; left out", event.item_id)
            elif left > 0:
                left -= 1
                yield event
            elif not self._is_full:
                self._is_full = True
                logger.warning(
                    "wanted a row for item %s, found all %d rows for created items taken; publish "
                    "a bundle that knows them, or with more (RECSYS_MAX_CREATED_ITEMS)",
                    event.item_id, self._room,
                )  # fmt: skip

    def _added(self, events: list[ItemEvent]) -> dict[int, ItemEvent]:
        if not events:
            return {}
        keys = [created_key(event.item_id) for event in events]
        rows = self._served.add(keys, self._describer.describe(events))
        for event, row in zip(events, rows, strict=True):
            assert self._vocabulary.add(event.item_id) == row
        return dict(zip(rows, events, strict=True))
