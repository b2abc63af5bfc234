"""The event log of the partitions a worker owns, one sink each, taken and given up as they move.

Features do not wait for the event log. A partition whose sink cannot write (disk full) or cannot be
had (another process still holds it) is *stalled*: its records are applied and left out here, the
sink is tried again every few seconds, and then they are read from the log once more from where the
sink stands. They are safe there meanwhile, for as long as the log keeps records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from recsys.errors import ConfigurationError
from recsys.events.log import Record, TopicPartition
from recsys.events.sink import CommitRefusedError
from recsys.features.runs import Run
from recsys.telemetry import EVENT_LOG_STALLED

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """What of ``events.sink.LogSink`` is used here."""

    def positions(self) -> dict[TopicPartition, int]:
        """Give the next offset to read of every partition ever written to."""

    def write_run(
        self, at: TopicPartition, records: Sequence[Record], values: Sequence[T_contra | None]
    ) -> None:
        """Take records in the order of their offsets; ``None`` for one that is no event."""

    def flush_if_due(self) -> bool:
        """Write the buffers that are full or old; says whether there were any."""

    def flush(self) -> None:
        """Write everything that is buffered."""

    def begin_anew(self, at: TopicPartition) -> None:
        """Take the log's offset 0 for the next record."""

    def close(self) -> None:
        """Flush and let another own the partition."""

    def abandon(self) -> None:
        """Drop what is buffered and let another own the partition."""


class PartitionSinks(Generic[T]):
    """Writes to the event log whatever it can of the partitions it was given."""

    def __init__(
        self,
        open_sink: Callable[[TopicPartition], Sink[T]],
        *,
        retry_s: float = 2.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Own nothing yet.

        Args:
            open_sink: Opens the sink of one partition; ConfigurationError when it cannot be had.
            retry_s: Pause between tries of a stalled sink.
            monotonic_s: A clock that never goes back.
        """
        self._open_sink = open_sink
        self._retry_s = retry_s
        self._monotonic_s = monotonic_s
        self._sinks: dict[TopicPartition, Sink[T] | None] = {}
        self._stalled: set[TopicPartition] = set()
        self._forgot: set[TopicPartition] = set()
        self._tried_s = 0.0

    def take(self, partitions: Iterable[TopicPartition]) -> None:
        """Own these partitions from now on."""
        for at in partitions:
            if at not in self._sinks:
                self._sinks[at] = None
                self._stalled.add(at)
                self._revive(at)
        self._show()

    def give_up(self, partitions: Iterable[TopicPartition]) -> None:
        """Write what is buffered and let others own them; what cannot be written they read anew."""
        for at in partitions:
            sink = self._sinks.pop(at, None)
            self._stalled.discard(at)
            self._forgot.discard(at)
            if sink is not None:
                try:
                    sink.close()
                except ConfigurationError as error:
                    self._say(at, error)
                    sink.abandon()
        self._show()

    def position(self, at: TopicPartition) -> int | None:
        """Give the first offset the event log lacks; ``None``: nothing is known to be there."""
        sink = self._sinks.get(at)
        return None if sink is None else sink.positions().get(at)

    def needs(self, at: TopicPartition) -> bool:
        """Say whether records of the partition are to be written here, from ``position`` on."""
        return at in self._sinks and at not in self._stalled

    def begin_anew(self, at: TopicPartition) -> None:
        """Take the log's offset 0 for the next record of a partition: the broker forgot its log."""
        self._forgot.add(at)
        sink = self._sinks.get(at)
        if sink is not None and at not in self._stalled:
            self._do(at, lambda: self._begin_anew(at, sink))

    def _begin_anew(self, at: TopicPartition, sink: Sink[T]) -> None:
        sink.begin_anew(at)
        self._forgot.discard(at)

    def write(self, runs: Iterable[Run[T | None]]) -> None:
        """Take records, ``None`` for those that are no events; flushes one sink that became due.

        One at a time: whoever calls has other work that waits.
        """
        for run in runs:
            sink = self._sinks.get(run.at)
            if sink is not None and run.at not in self._stalled:
                self._do(
                    run.at,
                    lambda sink=sink, run=run: sink.write_run(run.at, run.records, run.events),  # type: ignore[misc]
                )

        for at, sink in self._sinks.items():
            if sink is not None and at not in self._stalled:
                due: list[bool] = []
                self._do(at, lambda sink=sink, due=due: due.append(sink.flush_if_due()))  # type: ignore[misc]
                if due != [False]:
                    break

    def flush_if_due(self) -> None:
        """Write what is full or old."""
        self._each(lambda sink: sink.flush_if_due())

    def flush(self) -> None:
        """Write everything that is buffered."""
        self._each(lambda sink: sink.flush())

    def is_retry_due(self) -> bool:
        """Say whether ``retry`` has something to try by now."""
        return bool(self._stalled) and self._monotonic_s() - self._tried_s >= self._retry_s

    def retry(self) -> list[TopicPartition]:
        """Try stalled sinks again; gives the partitions to be read once more from ``position``.

        The next records they are given must be those: one further on would leave a hole.
        """
        if not self.is_retry_due():
            return []
        self._tried_s = self._monotonic_s()
        revived = [at for at in sorted(self._stalled) if self._revive(at)]
        self._show()
        return revived

    def close(self) -> None:
        """Give up everything."""
        self.give_up(list(self._sinks))

    def _revive(self, at: TopicPartition) -> bool:
        try:
            sink = self._sinks[at]
            if sink is None:
                sink = self._sinks[at] = self._open_sink(at)
            else:
                sink.flush()
            if at in self._forgot:
                self._begin_anew(at, sink)
        except ConfigurationError as error:
            self._say(at, error)
            self._reopen_if_refused(at, error)
            return False
        self._stalled.discard(at)
        return True

    def _each(self, deed: Callable[[Sink[T]], object]) -> None:
        for at, sink in self._sinks.items():
            if sink is not None and at not in self._stalled:
                self._do(at, lambda sink=sink: deed(sink))  # type: ignore[misc]

    def _do(self, at: TopicPartition, deed: Callable[[], object]) -> None:
        try:
            deed()
        except ConfigurationError as error:
            self._stalled.add(at)
            self._tried_s = self._monotonic_s()
            self._say(at, error)
            self._reopen_if_refused(at, error)
            self._show()

    def _reopen_if_refused(self, at: TopicPartition, error: ConfigurationError) -> None:
        """Another process wrote what this sink was about to: where it stands is not true."""
        sink = self._sinks[at]
        if sink is not None and isinstance(error, CommitRefusedError):
            sink.abandon()
            self._sinks[at] = None

    def _show(self) -> None:
        EVENT_LOG_STALLED.set(len(self._stalled))

    @staticmethod
    def _say(at: TopicPartition, error: ConfigurationError) -> None:
        logger.error(
            "event log cannot be written",
            extra={"topic": at.topic, "partition": at.partition, "reason": str(error)},
        )
