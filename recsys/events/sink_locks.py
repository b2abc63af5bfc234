"""Only one sink of a machine owns a partition: locks that end with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory
from recsys.events.log import TopicPartition
from recsys.events.log_files import COMMITS


class PartitionLocks:
    """Locks of one event log."""

    def __init__(self, event_log_dir: Path) -> None:
        """Nothing is owned yet."""
        self._dir = event_log_dir
        self._descriptors: list[int] = []

    def take(self, at: TopicPartition) -> None:
        """Own a partition.

        Raises:
            ConfigurationError: when another process owns it.
            OSError: when the folder cannot be written.
        """
        folder = self._dir / at.topic / COMMITS
        make_directory(folder)
        descriptor = os.open(folder / f".lock-{at.partition}", os.O_CREAT | os.O_RDWR, 0o644)
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"event log {self._dir}: wanted to write {at.topic}[{at.partition}] alone, found "
                "another process writing it; stop that one (`recsys status`) or give the workers "
                "different partitions"
            ) from error

    def let_go(self) -> None:
        """Let others own all of them."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
