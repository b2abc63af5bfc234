"""Applies batches to the online store: while Redis writes one, the next is computed.

What a write is refused for, another's write to the same hash, is told again from what is stored by
then. A forget record waits for all before it and is done by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from recsys.events.log import Record, TopicPartition
from recsys.events.schema import ForgetEvent, LoggedEvent
from recsys.features.batch_columns import BatchColumns
from recsys.features.hashes import ANY_VERSION, FeatureWriter, KeyFinder, UnderWay, Write
from recsys.features.key_layout import is_keyed_by_user
from recsys.features.runs import Run
from recsys.features.stream import FeatureStream
from recsys.telemetry import STREAM_DUPLICATES

logger = logging.getLogger(__name__)

Runs = Sequence[Run[LoggedEvent]]


class _Sent(NamedTuple):
    """A batch whose writes are under way."""

    columns: BatchColumns
    writes: UnderWay
    then: Callable[[], None]
    """What is done when they are written."""


class BatchWrites:
    """Applies fresh records, one batch under way at a time."""

    def __init__(self, stream: FeatureStream, writer: FeatureWriter, keys: KeyFinder) -> None:
        self._stream = stream
        self._writer = writer
        self._keys = keys
        self._sent: _Sent | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether there is something to wait for."""
        return self._sent is not None

    def drop(self) -> None:
        """Forget what is under way: the store is not the one it was made for."""
        self._sent = None

    def apply(self, fresh: Runs, then: Callable[[], None]) -> None:
        """Apply fresh records; ``then`` is called once they are written, which may be later.

        Raises:
            StoreChangedError: as ``FeatureWriter.write``, of these records or those before.
        """
        if any(run.places_of(ForgetEvent) for run in fresh):
            self.finish()
            self._apply_with_forgets(fresh)
            then()
            return
        columns = self._columns(fresh)
        writes = self._stream.apply_columns(columns)
        if refused := set(self.finish()):
            # They were computed from what is not so; the others from what is.
            writes = writes.without(refused)
            writes.extend(self._stream.apply_columns(columns))
        self._sent = _Sent(columns, self._writer.send(writes), then)

    def finish(self) -> list[bytes]:
        """Wait for what is under way; gives the keys that were refused, and are told by now.

        Raises:
            StoreChangedError: as ``FeatureWriter.write``.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            return []
        refused = self._tell_again(sent.columns, sent.writes.refused())
        sent.then()
        return refused

    def _columns(self, fresh: Runs) -> BatchColumns:
        columns, num_duplicates = self._stream.columns(fresh)
        STREAM_DUPLICATES.inc(num_duplicates)
        return columns

    def _tell_again(self, columns: BatchColumns, refused: list[bytes]) -> list[bytes]:
        """Tell hashes that were refused until none is; gives them."""
        every = refused
        while refused:
            # What was written is not fresh any more: each round tells the refused ones only.
            self._stream.forget_entities(refused)
            refused = self._writer.write(self._stream.apply_columns(columns))
            every = every + refused
        return every

    def _apply_with_forgets(self, fresh: Runs) -> None:
        before: list[Run[LoggedEvent]] = []
        for run in fresh:
            begin = 0
            for n in run.places_of(ForgetEvent):
                # First what came before: what others keep of it must not depend on where the
                # batches are cut.
                self._apply_now([*before, run.part(begin, n)])
                before = []
                self._forget_user(run.records[n], run.events[n])
                begin = n + 1
            before.append(run.part(begin))
        self._apply_now(before)

    def _apply_now(self, fresh: Runs) -> None:
        columns = self._columns(fresh)
        self._tell_again(columns, self._writer.write(self._stream.apply_columns(columns)))

    def _forget_user(self, record: Record, event: LoggedEvent) -> None:
        """Remove every hash of the user; done twice, what came after is applied twice, too."""
        if not isinstance(event, ForgetEvent):
            return
        self._stream.note(record, event)  # said again it forgets again, whatever came between
        ending = self._stream.ending_of_user(event.user_id)
        at = TopicPartition(record.topic, record.partition)
        # A write that timed out and was sent again may yet arrive: an old one must not bring the
        # user back, nor the removal come after what the user does next.
        self._writer.take([at])
        keys = [key for key in self._keys.ending(ending) if is_keyed_by_user(key)]
        # Its partition is ours, so nobody else has anything to tell this user.
        self._writer.write([Write(key, {}, ANY_VERSION, remove=True) for key in keys])
        self._writer.take([at])
        self._stream.forget_user(event.user_id)
        logger.info("user forgotten", extra={"num_hashes": len(keys)})
