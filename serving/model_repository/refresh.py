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

import torch
from torch import Tensor

from recsys.features.batch import ItemActivity
from recsys.models.serving_model import ServingModel

logger = logging.getLogger(__name__)

ReadItems = Callable[[], ItemActivity]
"""Reads the items of the vocabulary, in its order (row 0 of the model's table is padding)."""


class ItemRefresher:
    """A thread that reads and swaps in item features every ``interval_s``.

    ``connect`` is called again after a failure, so that a store that came back at another address
    is found.
    """

    def __init__(
        self, model: ServingModel, connect: Callable[[], ReadItems], *, interval_s: float
    ) -> None:
        self._model = model
        self._connect = connect
        self._interval_s = interval_s
        self._read: ReadItems | None = None
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
            if self._read is None:
                self._read = self._connect()
            items = self._read()
            self._model.set_item_activity(padded(items), items.as_of_ms)
        except Exception as error:  # noqa: BLE001  any trouble of the store; serving goes on
            if not self._was_failing:
                logger.warning("item features cannot be refreshed: %s", error)
            self._was_failing = True
            self._read = None
            return False
        if self._was_failing:
            logger.info("item features are refreshed again")
        self._was_failing = False
        return True

    def _run(self) -> None:
        due_s = time.monotonic() + self._interval_s
        while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
            self.refresh()
            due_s = max(due_s + self._interval_s, time.monotonic())


def padded(items: ItemActivity) -> Tensor:
    """Give ``[N + 1, Fi]`` float32 from ``[N, Fi]``: row 0 is padding, unknown items are 0."""
    activity = torch.zeros((len(items.known) + 1, items.activity.shape[1]))
    activity[1:] = torch.from_numpy(items.activity)
    return activity
