"""Folds items that came or changed into a bundle's index, in the background.

They gather beside the index, where they are searched exactly (``recsys/retrieval/live_index.py``).
When they are many, a thread of the lowest priority makes another index with them in it, which takes
the place of the one in use between two calls. Nothing is written: a model that is loaded anew reads
its bundle and the log, and folds again.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from recsys.models.serving import TorchServingModel
from recsys.retrieval.live_index import LiveIndex
from serving.model_repository.turns import Turns

logger = logging.getLogger(__name__)

MOST_BESIDE = 1_000
"""Items beside the index from which on they are folded in: they then cost a search .3 ms, and a
fold some ten (measured at 300,000 items, docs/live-catalogue.md)."""
_INTERVAL_S = 1.0
_RETRY_S = 60.0
_LOWEST = 19


class Compactor:
    """A thread that keeps what is beside the indexes of a model small."""

    def __init__(
        self, model: TorchServingModel, turns: Turns, *, most_beside: int = MOST_BESIDE
    ) -> None:
        self._served = model.items
        self._turns = turns
        self._most_beside = most_beside
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)

    def start(self) -> None:
        """Begin, where there is an index."""
        if self._served.live_indexes:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a fold under way is left to finish, or ends with the process."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def compact(self) -> int:
        """Fold in what is beside indexes that have too much there; gives how many items."""
        count = 0
        for index in self._served.live_indexes:
            if index.num_beside >= self._most_beside:
                count += self._fold(index)
        return count

    def _fold(self, index: LiveIndex) -> int:
        start_s = time.monotonic()
        with self._turns.turn():
            fold = self._served.fold(index)
        following = fold.run()  # faiss computes without the interpreter's lock
        with self._turns.turn():
            index.take(fold, following)
        logger.info(
            "%d items folded into the index in %.2f s", len(fold.rows), time.monotonic() - start_s
        )
        return len(fold.rows)

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        while not self._stopped.wait(_INTERVAL_S):
            try:
                self.compact()
            except Exception:  # the items beside the index are found as before
                logger.exception("items cannot be folded into the index")
                self._stopped.wait(_RETRY_S)
