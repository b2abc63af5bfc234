"""Exposures to the log, beside the answers: an answer never waits for its exposure.

A bounded queue in memory and a thread that makes the records of what has come, and appends them.
What the log does not take goes to the disk (``SpooledWriter``); what the disk does not take either
is dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from recsys.errors import RecsysError
from recsys.events.direct_writer import Appender
from recsys.events.spool_groups import LogRecord
from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.telemetry import EXPOSURES_DROPPED

logger = logging.getLogger(__name__)


Make = Callable[[], Exposure]


@dataclass(frozen=True, kw_only=True)
class ExposureLogConfig:
    """Bounds and patience."""

    max_waiting: int = 10_000
    """Exposures in memory, some 50 MB: those of the seconds before the log counts as away."""
    linger_s: float = 0.2
    """How long the first waits for others to travel with: what is in memory dies with the process,
    and an append for each exposure costs more than the exposure."""
    max_records: int = 1_000
    """Exposures that travel together."""
    stop_patience_s: float = 10.0
    """How long stopping waits for what is under way."""


class ExposureLog:
    """Takes exposures and appends them in the background."""

    def __init__(
        self, log: Appender, *, topic: str, config: ExposureLogConfig | None = None
    ) -> None:
        self._log = log
        self._topic = topic
        self._config = config or ExposureLogConfig()
        self._queue: queue.Queue[Make | None] = queue.Queue(self._config.max_waiting)
        self._stopping = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="exposure-log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, make: Make) -> None:
        """Take what makes an exposure, or drop and count it when too many wait. Never blocks.

        ``make`` is called in the thread, for many at a time: what it looks at must stay as it is.
        """
        try:
            self._queue.put_nowait(make)
        except queue.Full:
            EXPOSURES_DROPPED.inc()

    def stop(self) -> None:
        """Append what waits, then end."""
        self._stopping.set()
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=self._config.stop_patience_s)
            except queue.Full:
                logger.warning("exposures are lost: the event log is away")
                return
            self._thread.join(timeout=self._config.stop_patience_s)

    def _run(self) -> None:
        self._log.start()
        while (make := self._queue.get()) is not None:
            self._stopping.wait(self._config.linger_s)
            together = [make]
            ending = False
            while len(together) < self._config.max_records:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ending = True
                    break
                together.append(following)
            self._append([record for make in together for record in self._made(make)])
            if ending:
                break
        self._log.close()

    def _append(self, records: list[LogRecord]) -> None:
        try:
            self._log.append_all(records)
        except RecsysError as error:
            EXPOSURES_DROPPED.inc(len(records))
            if not self._failing:
                logger.warning("exposures are dropped: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _made(self, make: Make) -> list[LogRecord]:
        """Give the record; none, and count it, where it cannot be made: others still are."""
        try:
            exposure = make()
            return [(self._topic, exposure.user_id.encode(), encode_exposure(exposure))]
        except Exception:
            EXPOSURES_DROPPED.inc()
            logger.exception("an exposure cannot be made")
            return []
