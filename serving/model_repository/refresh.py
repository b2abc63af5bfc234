"""Keeps the item side of a served bundle fresh: moving item features, re-read in the background.

The age a request sees is at most the interval plus the time of one read. A store that cannot be
reached leaves the last values in place, and the age that travels with every answer grows: old
features are served openly, never in silence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from recsys.clock import Clock
from recsys.clock import now_ms as present_ms
from recsys.features.batch import Float32s, ItemActivity
from recsys.models.serving_model import ServingModel
from serving.model_repository.turns import Turns

logger = logging.getLogger(__name__)

ITEMS_A_TURN = 200
"""Read in one turn: about a millisecond, which is what a request may have to wait."""


class ReadsItems(Protocol):
    """The items of a bundle in the online store, in vocabulary order."""

    @property
    def num_items(self) -> int:
        """N."""

    def read(self, begin: int, end: int, now_ms: int) -> ItemActivity:
        """Give items ``begin`` to ``end`` (from 0) as they are at ``now_ms``."""

    def close(self) -> None:
        """Let go of the connections."""


class ItemRefresher:
    """A thread that reads and swaps in item features every ``interval_s``.

    ``connect`` is called again after a failure, so that a store that came back at another address
    is found.
    """

    def __init__(
        self,
        model: ServingModel,
        connect: Callable[[], ReadsItems],
        *,
        turns: Turns,
        interval_s: float,
        clock: Clock = present_ms,
    ) -> None:
        self._model = model
        self._connect = connect
        self._turns = turns
        self._interval_s = interval_s
        self._clock = clock
        self._reader: ReadsItems | None = None
        self._was_failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="item-refresher", daemon=True)

    def start(self) -> None:
        """Read once, so that the first request sees fresh features, then go on in the thread."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a read under way is left to finish."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def refresh(self) -> bool:
        """Read and swap in once. Gives whether it worked; never raises."""
        try:
            if self._reader is None:
                self._reader = self._connect()
            self._read(self._reader)
        except Exception as error:  # noqa: BLE001  any trouble of the store; serving goes on
            if not self._was_failing:
                logger.warning("item features cannot be refreshed: %s", error)
            self._was_failing = True
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            return False
        if self._was_failing:
            logger.info("item features are refreshed again")
        self._was_failing = False
        return True

    def _read(self, reader: ReadsItems) -> None:
        """Read all items as they are at one moment, in turns, then swap them in at once."""
        now_ms = self._clock()
        parts: list[Float32s] = []
        for begin in range(0, reader.num_items, ITEMS_A_TURN):
            with self._turns.turn():
                end = min(begin + ITEMS_A_TURN, reader.num_items)
                parts.append(reader.read(begin, end, now_ms).activity)
        with self._turns.turn():
            padding = np.zeros_like(parts[0][:1])
            activity = torch.from_numpy(np.concatenate([padding, *parts]))
            with torch.inference_mode():
                self._model.set_item_activity(activity, now_ms)

    def _run(self) -> None:
        due_s = time.monotonic() + self._interval_s
        while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
            self.refresh()
            due_s = max(due_s + self._interval_s, time.monotonic())
