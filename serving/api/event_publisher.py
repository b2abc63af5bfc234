"""Events to the log from an event loop: in the log, or on the disk, before the caller is answered.

One thread appends. While it waits for an acknowledgement, further batches queue, and all of them
travel together next: the busier, the fewer round trips (and while the log is away, fsyncs) per
event, and no waiting when idle.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from recsys.errors import OverloadedError, RecsysError, ServerError
from recsys.events.direct_writer import Appender
from recsys.events.spool_groups import LogRecord

_STOP_S = 10.0
"""How long stopping waits for the batch under way."""


@dataclass(frozen=True, kw_only=True)
class PublisherConfig:
    """Bounds."""

    max_waiting: int = 10_000
    """Batches that may queue; more are refused at once. Room for the seconds in which a log that is
    gone still counts as slow."""
    max_records: int = 20_000
    """Records that travel together."""


@dataclass(frozen=True, slots=True)
class _Batch:
    records: Sequence[LogRecord]
    done: Future[None]


class EventPublisher:
    """Appends batches of records. ``publish`` may be called from any event loop."""

    def __init__(self, log: Appender, config: PublisherConfig | None = None) -> None:
        self._log = log
        self._config = config or PublisherConfig()
        self._queue: queue.Queue[_Batch | None] = queue.Queue(self._config.max_waiting)
        self._thread = threading.Thread(target=self._run, name="event-publisher", daemon=True)

    def start(self) -> None:
        """Start the thread; it connects at once, so that the first event does not wait for it."""
        self._thread.start()

    async def publish(self, records: Sequence[LogRecord]) -> None:
        """Return once every record is acknowledged by the log, or on the disk until it is back.

        Raises:
            ServerError: when neither came about. Records may still arrive; send them again, their
                event ids make that harmless.
            OverloadedError: when too many batches are waiting.
        """
        batch = _Batch(records, Future())
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            raise OverloadedError(
                "the event log does not keep up; send the events again shortly", stage="events"
            ) from None
        await asyncio.wrap_future(batch.done)

    def stop(self) -> None:
        """Send what waits, then end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=_STOP_S)

    def _run(self) -> None:
        self._log.start()
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                break
            batches = [first]
            num_records = len(first.records)
            while num_records < self._config.max_records:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stopping = True
                    break
                batches.append(following)
                num_records += len(following.records)
            self._append(batches)
        self._log.close()

    def _append(self, batches: list[_Batch]) -> None:
        running = [batch for batch in batches if batch.done.set_running_or_notify_cancel()]
        records = [record for batch in running for record in batch.records]
        try:
            self._log.append_all(records)
        except Exception as error:  # noqa: BLE001  the callers are told, whatever it was
            explained = (
                error
                if isinstance(error, RecsysError)
                else ServerError(f"the event log failed: {type(error).__name__}: {error}")
            )
            for batch in running:
                batch.done.set_exception(explained)
        else:
            for batch in running:
                batch.done.set_result(None)
