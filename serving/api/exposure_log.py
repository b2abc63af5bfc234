"""Exposures to the log, beside the answers: an answer never waits for its exposure.

A bounded queue and a thread. When the log is away longer than the queue lasts, the newest exposures
are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
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
    stop_patience_s: float = 3.0
    """How long stopping waits for a log that is away."""


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
        self._give_up_s = float("inf")
        """When, on the monotonic clock, what the log does not take is dropped: once we stop."""
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
        """Append what waits, then end; what the log does not take in time is dropped."""
        self._give_up_s = time.monotonic() + self._config.stop_patience_s
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=self._config.stop_patience_s)
            except queue.Full:
                logger.warning("exposures are lost: the event log is away")
                return
            self._thread.join(timeout=2 * self._config.stop_patience_s)

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
                    if time.monotonic() > self._give_up_s:
                        EXPOSURES_DROPPED.inc()
                        break
                    time.sleep(self._config.retry_s)
                else:
                    failing = False
                    break
        if writer is not None:
            try:
                writer.close()
            except RecsysError as error:
                logger.warning("the last exposures may be lost: %s", error)
