"""Exposures to the log, beside the answers: an answer never waits for its exposure.

A bounded queue and a thread. When the log is away longer than the queue lasts, the newest exposures
are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from recsys.errors import RecsysError
from recsys.events.log import EventWriter
from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.telemetry import EXPOSURES_DROPPED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExposureLogConfig:
    """Bounds and patience."""

    max_waiting: int = 10_000
    """Exposures kept while the log is away: some 50 MB."""
    retry_s: float = 1.0
    """Pause after a failure."""


class ExposureLog:
    """Takes exposures and appends them in the background."""

    def __init__(
        self,
        connect: Callable[[], EventWriter],
        *,
        topic: str,
        config: ExposureLogConfig | None = None,
    ) -> None:
        self._connect = connect
        self._topic = topic
        self._config = config or ExposureLogConfig()
        self._queue: queue.Queue[Exposure | None] = queue.Queue(self._config.max_waiting)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposure-log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, exposure: Exposure) -> None:
        """Take an exposure, or drop and count it when too many wait. Never blocks."""
        try:
            self._queue.put_nowait(exposure)
        except queue.Full:
            EXPOSURES_DROPPED.inc()

    def stop(self) -> None:
        """Append what waits, then end; what the log does not take within seconds is dropped."""
        self._stopped.set()
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=1.0)
            except queue.Full:
                logger.warning("exposures are still waiting: the event log is away")
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        writer: EventWriter | None = None
        failing = False
        while (exposure := self._queue.get()) is not None:
            key, value = exposure.user_id.encode(), encode_exposure(exposure)
            while True:
                try:
                    if writer is None:
                        writer = self._connect()
                    writer.append(self._topic, key, value)
                except RecsysError as error:
                    if not failing:
                        logger.warning("exposures cannot be written: %s", error)
                    failing = True
                    if self._stopped.wait(self._config.retry_s):
                        EXPOSURES_DROPPED.inc()
                        break
                else:
                    failing = False
                    break
        if writer is not None:
            try:
                writer.close()
            except RecsysError as error:
                logger.warning("the last exposures may be lost: %s", error)
