"""One run of the process that logs exposures: the topic in, the Parquet log out.

The files alone say how far a partition is logged, so a process killed anywhere goes on from there
and nothing is lost or twice. Partitions are shared out by the consumer group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import ServerError
from recsys.events.log import SharedReader, TopicPartition
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.runs import Run, by_partition
from recsys.feedback.exposure import Exposure
from recsys.feedback.exposure_log import exposure_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExposureRunConfig:
    """How the run paces itself."""

    poll_timeout_ms: int = 500
    max_records: int = 1_000
    """Of one batch: some 5 MB."""
    commit_every_s: float = 5.0
    """Committed positions are for monitoring only."""


class ExposureRun:
    """Logs the exposures of its share of the partitions. Not thread-safe."""

    def __init__(
        self,
        reader: SharedReader,
        sinks: PartitionSinks[Exposure],
        config: ExposureRunConfig = ExposureRunConfig(),
    ) -> None:
        self._reader = reader
        self._sinks = sinks
        self._config = config
        self._committed_s = time.monotonic()
        self.has_joined = False
        """Whether the group gave it a share, be it empty."""

    def step(self) -> int:
        """Log what is there, waiting a moment when nothing is; gives the number of records.

        Raises:
            ServerError: when the log does not answer.
        """
        self._go_on(self._sinks.retry())
        records = self._reader.poll(
            timeout_ms=self._config.poll_timeout_ms, max_records=self._config.max_records
        )
        self._follow_share()
        runs = [Run(at, some, [exposure_of(one) for one in some]) for at, some in
                by_partition(records)]  # fmt: skip
        self._sinks.write(runs)
        if not records:
            self._sinks.flush_if_due()
        self._commit_if_due()
        return len(records)

    def store(self) -> None:
        """Write what is buffered."""
        self._sinks.flush()

    def _follow_share(self) -> None:
        lost, gained, num = self._reader.changes()
        self.has_joined = self.has_joined or bool(num or gained)
        if lost:
            self._sinks.give_up(lost)
        if gained:
            self._sinks.take(gained)
            self._go_on(gained)

    def _go_on(self, partitions: Sequence[TopicPartition]) -> None:
        """Go to where the files end; a partition that cannot be written is not read."""
        mine = sorted(set(partitions) & set(self._reader.assignment()))
        if not mine:
            return
        begin = {}
        for at, (first, end) in self._reader.bounds(mine).items():
            if not self._sinks.needs(at):
                begin[at] = end
                continue
            position = self._sinks.position(at)
            if position is not None and position > end:
                logger.warning("the broker forgot its log and begins anew", extra={"at": at})
                self._sinks.begin_anew(at)
                position = None
            begin[at] = first if position is None else max(first, position)
        self._reader.seek(begin)

    def _commit_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s - self._committed_s < self._config.commit_every_s:
            return
        self._committed_s = now_s
        positions = {at: self._sinks.position(at) for at in self._reader.assignment()}
        logged = {at: position for at, position in positions.items() if position}
        if logged:
            try:
                self._reader.commit(logged)
            except ServerError as error:  # a rebalance, a broker away
                logger.info("positions not committed", extra={"reason": str(error)})
