"""Appending that survives a log that is away: to the log, or to the disk until it is back.

::

    append_all ──► the log answers, nothing waits ──► log          (nothing touches the disk)
              └──► else ──► spool, fsynced ──► a thread, oldest first ──► log ──► removed

Records are never in two orders: while anything waits, new records wait behind it. Delivery is at
least once: what timed out may have arrived all the same, and is sent again from the spool. The ids
in the records make that harmless (docs/spool.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.clock import Clock, now_ms
from recsys.errors import ConfigurationError, RecordRefusedError, ServerError, SpoolRefusalError
from recsys.events.log import EventWriter
from recsys.events.spool import Spool
from recsys.events.spool_folder import orphans
from recsys.events.spool_groups import LogRecord
from recsys.telemetry import (
    SPOOL_BYTES,
    SPOOL_OLDEST_SECONDS,
    SPOOL_RECORDS,
    SPOOL_REFUSED,
    SPOOL_SENT,
    SPOOL_TAKEN,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpoolingConfig:
    """Patience."""

    ack_timeout_s: float = 2.0
    """How long the log may take before records go to the disk instead. A broker that lost its
    leader needs one; a caller who waits has hardly more."""
    send_timeout_s: float = 10.0
    """How long it may take for records from the disk, for which nobody waits."""
    retry_s: float = 0.5
    """Pause before the log is tried again."""
    look_s: float = 1.0
    """Between two looks at the gauges."""
    orphans_s: float = 10.0
    """Between two looks for spools whose process is gone."""
    rest: float = 1.0
    """Pause between groups from the disk, in times of what sending the last one took. Threads take
    turns at the interpreter, so what is caught up with at full speed stops an API process."""
    max_rest_s: float = 0.2
    """But no longer: a log that is slow has the thread waiting as it is."""
    stop_patience_s: float = 3.0
    """How long stopping waits for what is on the disk; the rest stays there."""


class SpooledWriter:
    """Appends records for good. One thread may append at a time."""

    def __init__(
        self,
        connect: Callable[[], EventWriter],
        spool: Spool,
        *,
        adopt_from: Path | None = None,
        config: SpoolingConfig = SpoolingConfig(),
        clock: Clock = now_ms,
    ) -> None:
        """Take the parts.

        Args:
            connect: Connects a writer to the log; may be called again and again.
            spool: Where records wait; closed by ``close``.
            adopt_from: ``Settings.spool_path``: spools of the same name that nobody owns any more
                are sent from here.
            config: Patience.
            clock: For ages.
        """
        self._connect = connect
        self._spool = spool
        self._name = spool.path.stem
        self._adopt_from = adopt_from
        self._config = config
        self._clock = clock
        self._writer: EventWriter | None = None
        self._changing = threading.Lock()
        self._wake = threading.Event()
        self._tried = threading.Event()
        """Set once the first try to connect has ended."""
        self._stopped = False
        self._give_up_s = float("inf")
        self._orphans_due_s = 0.0
        self._was_away = False
        self._thread = threading.Thread(target=self._run, name=f"spool-{self._name}", daemon=True)

    def start(self) -> None:
        """Connect, and begin to send what an earlier process left."""
        self._thread.start()

    def append_all(self, records: Sequence[LogRecord]) -> None:
        """Return once every record is acknowledged by the log or lies on the disk for good.

        Raises:
            RecordRefusedError: when the log will never take one of them.
            SpoolRefusalError: when the log is away and the disk has no room.
        """
        self._tried.wait(self._config.ack_timeout_s)  # a process that just began
        writer = self._writer
        if writer is not None and self._spool.is_empty:
            try:
                writer.append_all(records, timeout_s=self._config.ack_timeout_s)
            except RecordRefusedError:
                raise
            except ServerError as error:
                self._lose(writer, error)
            else:
                return
        try:
            self._spool.add(records)
        except SpoolRefusalError as error:
            SPOOL_REFUSED.labels(self._name, error.reason).inc(len(records))
            raise
        SPOOL_TAKEN.labels(self._name).inc(len(records))
        self._wake.set()

    def described(self) -> str:
        """Say how much waits, for ``/readyz``.

        Raises:
            SpoolRefusalError: when it takes no more.
        """
        self._spool.check()
        waiting = self._spool.waiting
        if waiting.oldest_ms is None:
            return f"{self._name}: nothing waits"
        age_s = (self._clock() - waiting.oldest_ms) / 1e3
        return (
            f"{self._name}: {waiting.num_records} records, {waiting.num_bytes} bytes, wait for "
            f"the event log, the oldest for {age_s:.0f} s"
        )

    def close(self) -> None:
        """Send what waits for as long as is reasonable, then end; the rest stays on the disk."""
        self._give_up_s = time.monotonic() + self._config.stop_patience_s
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._config.stop_patience_s + 1.0)
        if self._thread.is_alive():
            logger.warning("%s: what is on the disk is left to the next process", self._name)
            return
        if self._writer is not None:
            try:
                self._writer.close()
            except ServerError as error:
                logger.warning("the event log did not close cleanly: %s", error)
        self._spool.close()

    def _run(self) -> None:
        while not (self._stopped and (self._spool.is_empty or self._is_late())):
            self._wake.clear()
            try:
                pause_s = self._step()
            except ServerError as error:  # of the spool: a disk that does not answer
                logger.warning("%s", error)
                pause_s = self._config.retry_s
            except Exception:  # would this thread end, nothing would ever be sent
                logger.exception("%s: sending failed, and is tried again", self._name)
                pause_s = self._config.retry_s
            self._tried.set()
            self._show()
            if pause_s == self._config.look_s:
                self._wake.wait(pause_s)
            elif pause_s:
                time.sleep(pause_s)  # what comes meanwhile changes nothing

    def _step(self) -> float:
        """Do one thing that is due; give how long to wait before the next."""
        writer = self._writer
        if writer is None:
            return 0.0 if self._connected() else self._config.retry_s
        if not self._spool.is_empty:
            began_s = time.monotonic()
            if not self._send(self._spool, writer):
                return self._config.retry_s
            rest_s = self._config.rest * (time.monotonic() - began_s)
            return 0.0 if self._stopped else min(rest_s, self._config.max_rest_s)
        if self._adopt_from is not None and time.monotonic() >= self._orphans_due_s:
            self._orphans_due_s = time.monotonic() + self._config.orphans_s
            self._adopt(self._adopt_from)
        return self._config.look_s

    def _is_late(self) -> bool:
        return time.monotonic() > self._give_up_s

    def _connected(self) -> bool:
        try:
            writer = self._connect()
        except ServerError as error:
            self._say_away(error)
            return False
        if self._was_away:
            logger.info("%s: the event log is back", self._name)
        self._was_away = False
        self._writer = writer
        return True

    def _send(self, spool: Spool, writer: EventWriter) -> bool:
        """Send the oldest group; False: the log did not take it."""
        group = spool.first()
        if group is None:
            return True
        try:
            try:
                writer.append_all(group.records, timeout_s=self._config.send_timeout_s)
            except RecordRefusedError:
                self._send_singly(spool, writer, group.records)
        except SpoolRefusalError:
            raise
        except ServerError as error:
            self._lose(writer, error)
            return False
        spool.remove(group)
        SPOOL_SENT.labels(self._name).inc(len(group.records))
        return True

    def _send_singly(self, spool: Spool, writer: EventWriter, records: Sequence[LogRecord]) -> None:
        """Find those the log refuses and put them out of the way of the others."""
        for record in records:
            try:
                writer.append_all([record], timeout_s=self._config.send_timeout_s)
            except RecordRefusedError as error:
                spool.keep_refused(record, str(error))
                SPOOL_REFUSED.labels(self._name, "record").inc()
                logger.error(
                    "%s: a record is refused for good and set aside: %s", spool.path, error
                )

    def _adopt(self, root: Path) -> None:
        """Send what processes that are gone have left, oldest folder first."""
        with orphans(root, self._spool.path.name) as paths:
            for path in paths:
                try:
                    spool = Spool(path, clock=self._clock)
                except ConfigurationError as error:
                    logger.warning("%s", error)
                    continue
                try:
                    if not spool.is_empty:
                        logger.info("%s: adopted, its process is gone", path)
                    while not spool.is_empty and not self._stopped and self._spool.is_empty:
                        writer = self._writer
                        if writer is None or not self._send(spool, writer):
                            break
                finally:
                    spool.close()

    def _lose(self, writer: EventWriter, error: ServerError) -> None:
        """Let go of a writer that failed: kept, it would send later what the spool sends too."""
        self._say_away(error)
        with self._changing:
            if self._writer is writer:
                self._writer = None
        writer.abandon()
        self._wake.set()

    def _say_away(self, error: ServerError) -> None:
        if not self._was_away:
            logger.warning("%s: to the disk until the event log is back: %s", self._name, error)
        self._was_away = True

    def _show(self) -> None:
        waiting = self._spool.waiting
        age_s = 0.0 if waiting.oldest_ms is None else (self._clock() - waiting.oldest_ms) / 1e3
        SPOOL_BYTES.labels(self._name).set(waiting.num_bytes)
        SPOOL_RECORDS.labels(self._name).set(waiting.num_records)
        SPOOL_OLDEST_SECONDS.labels(self._name).set(max(0.0, age_s))
