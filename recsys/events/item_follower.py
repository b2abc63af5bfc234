"""Follows the item topic for whoever keeps a picture of the catalogue: API processes, model server.

Each of them reads the log itself, from where the picture it holds was taken. So nobody has to be
asked or told, all come to the same picture, and one that was killed comes to it again by reading.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from recsys.clock import Clock, now_ms
from recsys.errors import EventError
from recsys.events.codec import decode_all_logged, decode_logged
from recsys.events.log import EventReader, Record, TopicPartition
from recsys.events.schema import ItemEvent, LoggedEvent
from recsys.telemetry import (
    CATALOGUE_CHANGE_AGE_SECONDS,
    CATALOGUE_CHANGES,
    CATALOGUE_CHANGES_LATE,
    CATALOGUE_FOLLOW_FAILURES,
)

logger = logging.getLogger(__name__)

_RETRY_S = 0.25
"""Pause before a log that does not answer is asked again: an eighth of the bound on age."""
_LOOK_S = 0.1
"""How often who waits looks whether the log fails."""


class ItemChange(NamedTuple):
    """What the log said of an item, and where."""

    at: TopicPartition
    offset: int
    event: ItemEvent


class Follows(Protocol):
    """A picture of the catalogue."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take in changes, each once and those of an item in order; called from one thread."""


@dataclass(frozen=True, kw_only=True)
class FollowConfig:
    """How closely the log is followed."""

    poll_ms: int = 250
    """Longest wait for a record; one that comes ends it. Bounds how soon a new picture begins."""
    max_records: int = 2_000
    """Taken in at once: some milliseconds' work."""
    late_ms: int = 2_000
    """A change that is taken in later than that after the log received it counts as late."""


class _Target:
    """A picture, and how far it has read. Held weakly: it goes with the bundle it is of."""

    def __init__(self, follows: Follows, start: Mapping[str, int], at_ms: int) -> None:
        self.follows = weakref.ref(follows)
        self.start = start
        self.since_ms = at_ms
        """What the log received before is history and cannot be late."""
        self.positions: dict[TopicPartition, int] | None = None


class ItemFollower:
    """One thread and one reader for all pictures of a process."""

    def __init__(
        self,
        connect: Callable[[], EventReader],
        *,
        config: FollowConfig = FollowConfig(),
        clock: Clock = now_ms,
    ) -> None:
        """``connect`` gives a reader of the item topic; asked again after a failure."""
        self._connect = connect
        self._config = config
        self._clock = clock
        self._reader: EventReader | None = None
        self._targets: list[_Target] = []
        self._new: list[_Target] = []
        self._lock = threading.Lock()
        self._was_failing = False
        self._caught_up = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="item-follower", daemon=True)

    def add(self, follows: Follows, start: Mapping[str, int]) -> None:
        """Keep ``follows`` up to date for as long as somebody else holds it.

        Args:
            follows: The picture.
            start: ``topic:partition`` to the first offset it does not know (a bundle's
                ``Lineage.log_positions``); a partition not named is read from its beginning.
        """
        with self._lock:
            self._new.append(_Target(follows, start, self._clock()))
            self._caught_up.clear()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it is taking in is taken in."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def wait(self, timeout_s: float, *, failing_s: float | None = None) -> bool:
        """Wait until all pictures were at the end of the log once; says whether they were.

        Args:
            timeout_s: The longest wait.
            failing_s: The longest wait for a log whose last answer was an error or none at all;
                ``timeout_s`` when not given. A log that is merely slow is waited for.
        """
        began_s = time.monotonic()
        patience_s = timeout_s if failing_s is None else failing_s
        while (waited_s := time.monotonic() - began_s) < timeout_s:
            if self._caught_up.wait(min(timeout_s - waited_s, _LOOK_S)):
                return True
            if self._was_failing and time.monotonic() - began_s >= patience_s:
                return False
        return self._caught_up.is_set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._step():
                self._stopped.wait(_RETRY_S)
        if self._reader is not None:
            self._reader.close()

    def _step(self) -> bool:
        """Take in what is there; says whether the log answered. Never raises."""
        try:
            reader = self._reader
            if reader is None:
                reader = self._reader = self._connect()
                self._seek(reader, self._targets)
            self._take_up(reader)
            if not self._targets:
                return not self._stopped.wait(self._config.poll_ms / 1e3)
            self._look_whether_caught_up(reader)  # before a poll, which waits where nothing comes
            records = reader.poll(
                timeout_ms=self._config.poll_ms, max_records=self._config.max_records
            )
            if records:
                self._tell(records)
        except Exception as error:  # noqa: BLE001  any trouble of the log; serving goes on
            CATALOGUE_FOLLOW_FAILURES.inc()
            if not self._was_failing:
                logger.warning("the catalogue cannot be followed: %s", error)
            self._was_failing = True
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            return False
        if self._was_failing:
            logger.info("the catalogue is followed again")
        self._was_failing = False
        return True

    def _look_whether_caught_up(self, reader: EventReader) -> None:
        if not self._caught_up.is_set() and not any(reader.lag().values()):
            with self._lock:
                if not self._new:
                    self._caught_up.set()

    def _take_up(self, reader: EventReader) -> None:
        """Begin with new pictures, and forget those nobody holds any more."""
        self._targets = [target for target in self._targets if target.follows() is not None]
        with self._lock:
            new, self._new = self._new, []
        if new:
            self._targets += new
            self._seek(reader, self._targets)

    def _seek(self, reader: EventReader, targets: Sequence[_Target]) -> None:
        """Go to the first record that somebody has not seen."""
        bounds = reader.bounds(reader.assignment())
        for target in targets:
            if target.positions is None:
                target.positions = {
                    at: target.start.get(f"{at.topic}:{at.partition}", first)
                    for at, (first, _) in bounds.items()
                }
            for at, (first, end) in bounds.items():
                stands = target.positions.get(at, first)
                if not first <= stands <= end:
                    # Deleted before it was read, or a log begun anew: all that is left is read.
                    logger.warning(
                        "item changes of %s:%d: wanted those from %d on, found %d to %d",
                        at.topic, at.partition, stands, first, end,
                    )  # fmt: skip
                    stands = first
                target.positions[at] = stands
        if targets:
            reader.seek({at: min(_of(target)[at] for target in targets) for at in bounds})

    def _tell(self, records: Sequence[Record]) -> None:
        changes = item_changes(records)
        ends = {TopicPartition(r.topic, r.partition): r.offset + 1 for r in records}
        for target in self._targets:
            positions, follows = _of(target), target.follows()
            fresh = [c for c in changes if c.offset >= positions[c.at]]
            if fresh and follows is not None:
                follows.apply(fresh)
            positions.update({at: max(end, positions[at]) for at, end in ends.items()})
        since_ms = max((target.since_ms for target in self._targets), default=0)
        CATALOGUE_CHANGES.inc(len(changes))
        for record in records:
            if record.timestamp_ms >= since_ms:
                age_ms = self._clock() - record.timestamp_ms
                CATALOGUE_CHANGE_AGE_SECONDS.observe(max(age_ms, 0) / 1e3)
                if age_ms > self._config.late_ms:
                    CATALOGUE_CHANGES_LATE.inc()


def _of(target: _Target) -> dict[TopicPartition, int]:
    assert target.positions is not None, "seek comes first"
    return target.positions


def item_changes(records: Sequence[Record]) -> list[ItemChange]:
    """Give what is readable; the stream worker puts the rest among the dead letters."""
    events: list[LoggedEvent | None] = []
    try:
        events += decode_all_logged([record.value for record in records])
    except EventError:
        events = [_readable(record.value) for record in records]
    return [
        ItemChange(TopicPartition(record.topic, record.partition), record.offset, event)
        for record, event in zip(records, events, strict=True)
        if isinstance(event, ItemEvent)
    ]


def _readable(value: bytes) -> LoggedEvent | None:
    try:
        return decode_logged(value)
    except EventError:
        return None
