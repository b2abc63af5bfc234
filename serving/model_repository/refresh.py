"""Keeps the item side of a served bundle fresh: moving item features follow the online store.

All items are read once. From then on an item is read again when the store says that it was changed,
or when one of its windows falls: after each look at the store, every item's features are what a
read of all of them would have given at the moment before that look. That moment is the age that
travels with every answer. A store that cannot be reached leaves the last values in place and the
age grows: old features are served openly, never in silence. When it is back, all items are read
again, since nobody knows what was missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from recsys.clock import Clock
from recsys.clock import now_ms as present_ms
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Float32s, Int64s
from recsys.features.item_feed import StoredItems
from recsys.models.serving_model import ServingModel
from serving.model_repository.due_items import DueItems
from serving.model_repository.turns import Turns

logger = logging.getLogger(__name__)

ITEMS_A_TURN = 200
"""Finalised in one turn: about a millisecond, which is what a request may have to wait."""
_ITEMS_BEFORE_REQUESTS = 2_000
"""The same where no request can wait yet: larger arrays take less time for each item."""
_ITEMS_A_LOOK = 10_000
"""Read before the store is asked again what has changed."""
_KEYS_A_TURN = 2_000
_AHEAD_A_LOOK = 2 * ITEMS_A_TURN
"""Items whose next features are computed before they are due, after a look that found as few: some
thousand a second, in a few hundredths of a core."""
_LONGEST_PAUSE_S = 2.0
"""Between two tries of a store that is away, or of one whose items cannot be read."""
_BACK_MS = 1_000
"""A clock set back by less is waited for; by more, all items are as of another time."""


class FollowsItems(Protocol):
    """Items in the online store, and what changes among them. See ``ItemFeed``."""

    def changed(self) -> set[bytes] | None:
        """Give the keys changed before this call and not given yet; None: all may have been."""

    def ids_of(self, keys: Iterable[bytes]) -> list[str]:
        """Give the items that have these keys."""

    def read(self, item_ids: Sequence[str]) -> StoredItems:
        """Read items. It waits, and computes next to nothing."""

    def activity(self, stored: StoredItems, at_ms: Int64s) -> tuple[Float32s, Int64s]:
        """Give the values at ``at_ms``, and when time alone may change them."""

    def close(self) -> None:
        """Let go of the connections."""


class ItemRefresher:
    """A thread that looks at the store every ``interval_s``.

    ``connect`` is called again after a failure, so that a store that came back at another address
    is found.
    """

    def __init__(
        self,
        model: ServingModel,
        vocabulary: Vocabulary,
        connect: Callable[[], FollowsItems],
        *,
        turns: Turns,
        interval_s: float,
        room: int = 0,
        clock: Clock = present_ms,
    ) -> None:
        """``vocabulary`` says which items the rows of ``model`` are.

        It may grow meanwhile, by ``room`` items that ``model`` has by then: they are read at the
        next look.
        """
        self._served = model.items
        self._vocabulary = vocabulary
        self._due = DueItems(vocabulary.num_items, model.dimensions.num_item_features, room=room)
        self._is_gentle = False
        self._connect = connect
        self._turns = turns
        self._interval_s = interval_s
        self._clock = clock
        self._last_ms = 0
        self._feed: FollowsItems | None = None
        self._pause_s = interval_s
        self._was_failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="item-refresher", daemon=True)

    def start(self) -> None:
        """Go on in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a read under way is left to finish."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        if not self._thread.is_alive() and self._feed is not None:
            self._feed.close()

    def read_before_requests(self, longest_s: float) -> bool:
        """Do as ``refresh``, faster and for so long at most, while nobody waits for the model."""
        start_s = time.monotonic()
        done = self._try(_ITEMS_BEFORE_REQUESTS, start_s + longest_s)
        left = self._due.num_pending
        logger.info(
            "read the features of %d of %d items in %.2f s",
            self._vocabulary.num_items - left, self._vocabulary.num_items,
            time.monotonic() - start_s,
        )  # fmt: skip
        return done

    def refresh(self) -> bool:
        """Bring all items up to date. Gives whether they are; never raises."""
        return self._try(ITEMS_A_TURN, None)

    def _try(self, at_once: int, until_s: float | None) -> bool:
        try:
            if self._feed is None:
                self._feed = self._connect()
                self._read_all_again()
            while not self._look(self._feed, at_once):
                if self._stopped.is_set() or (until_s and time.monotonic() > until_s):
                    return False
        except Exception as error:  # noqa: BLE001  any trouble of the store; serving goes on
            if not self._was_failing:
                logger.warning("item features cannot be refreshed: %s", error)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._was_failing = True
            if self._feed is not None:
                self._feed.close()
            self._feed = None
            return False
        if self._was_failing:
            logger.info("item features are refreshed again")
        self._pause_s = self._interval_s
        self._was_failing = False
        return True

    def _look(self, feed: FollowsItems, at_once: int) -> bool:
        """See what has changed and read that; False when more is left than is read between looks.

        Where nothing is left, every item was read after its last change and is not due: the
        features are those of the moment at which this began.
        """
        self._take_in_added()
        now_ms = self._now_ms()
        self._mark(feed, feed.changed())
        pending, ready = self._due.see(now_ms)
        for begin in range(0, len(ready), _KEYS_A_TURN):
            with self._turns.turn(), torch.inference_mode():
                rows = ready[begin : begin + _KEYS_A_TURN]
                self._put(rows, *self._due.known_ahead(rows))
        for begin in range(0, min(len(pending), _ITEMS_A_LOOK), at_once):
            start_s = time.monotonic()
            self._read(feed, pending[begin : begin + at_once], now_ms)
            if self._is_gentle and at_once == ITEMS_A_TURN:
                self._stopped.wait(time.monotonic() - start_s)
        if len(pending) > _ITEMS_A_LOOK:
            return False
        self._is_gentle = False
        self._served.confirm_activity(now_ms)
        if len(pending) <= _AHEAD_A_LOOK:
            self._prepare(feed, now_ms)
        return True

    def _now_ms(self) -> int:
        now_ms = self._clock()
        if now_ms < self._last_ms - _BACK_MS:
            self._read_all_again()
        elif now_ms < self._last_ms:
            return self._last_ms
        self._last_ms = now_ms
        return now_ms

    def _read_all_again(self) -> None:
        """In half of a core at most: nobody knows that any has changed."""
        self._due.mark_all()
        self._is_gentle = True

    def _mark(self, feed: FollowsItems, keys: set[bytes] | None) -> None:
        if keys is None:
            self._read_all_again()
            return
        each = iter(keys)
        row_of, last = self._vocabulary.index_of, self._due.num_items
        while some := list(islice(each, _KEYS_A_TURN)):
            with self._turns.turn():
                rows = [row_of.get(i, 0) for i in feed.ids_of(some)]
                # What was added since this look began is read at the next one.
                self._due.mark([row for row in rows if 0 < row <= last])

    def _read(self, feed: FollowsItems, rows: Int64s, now_ms: int) -> None:
        stored = feed.read(self._ids(rows))
        with self._turns.turn(), torch.inference_mode():
            values, until_ms = feed.activity(stored, np.full(len(rows), now_ms, dtype=np.int64))
            self._put(rows, values, np.minimum(until_ms, stored.gone_ms(now_ms)))

    def _put(self, rows: Int64s, values: Float32s, until_ms: Int64s) -> None:
        index, activity = torch.from_numpy(rows), torch.from_numpy(values)
        held = self._served.activity_of(index.unsqueeze(0))[0].cpu()
        differs = (held != activity).any(dim=1)
        if differs.any():
            self._served.change_activity(index[differs], activity[differs])
        self._due.put(rows, until_ms)

    def _prepare(self, feed: FollowsItems, now_ms: int) -> None:
        """Find out what some items will be once time has changed them.

        What is written to one meanwhile is heard of, and it is read again.
        """
        rows, due_ms = self._due.to_prepare(now_ms, _AHEAD_A_LOOK)
        for begin in range(0, len(rows), ITEMS_A_TURN):
            some = slice(begin, begin + ITEMS_A_TURN)
            stored = feed.read(self._ids(rows[some]))
            with self._turns.turn():
                values, until_ms = feed.activity(stored, due_ms[some])
                until_ms = np.minimum(until_ms, stored.gone_ms(now_ms))
                self._due.prepare(rows[some], values, until_ms)

    def _ids(self, rows: Int64s) -> list[str]:
        return [self._vocabulary.item_ids[row - 1] for row in rows.tolist()]

    def _take_in_added(self) -> None:
        added = self._vocabulary.num_items - self._due.num_items
        if added:
            self._due.grow(added)

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            self.refresh()
