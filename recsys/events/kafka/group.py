"""A share of a topic's partitions that changes as readers of the group come and go.

The classic protocol with sticky assignment: who stays in the group keeps what it has, and only what
a lost or new reader makes necessary moves. A partition that came stands still until ``seek``: its
owner keeps positions of its own, and reading from the committed one would be reading too late.

Heartbeats are sent by the client's thread, so a long batch does not cost the membership; a process
that is stopped altogether loses it after the session.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka import TopicPartition as ClientPartition
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from recsys.endpoints import Endpoints
from recsys.events.kafka.config import (
    FOLLOWING,
    ReaderConfig,
    closed_on_failure,
    consumer_options,
    explained,
)
from recsys.events.kafka.reader import KafkaEventReader
from recsys.events.log import Changes, TopicPartition
from recsys.settings import Settings

_ALIVE_MS = 50
"""Enough for a step of a rebalance."""


_JOIN_MS = 60_000
"""Longer than any rebalance: it waits for the slowest batch of the other readers."""


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """How fast the loss of a reader is noticed."""

    session_timeout_ms: int = 6_000
    """A killed or stopped reader's partitions move after this; the broker's lowest is 6 s."""
    heartbeat_interval_ms: int = 1_000
    """Also how soon readers hear of a rebalance."""
    max_poll_interval_ms: int = 120_000
    """A reader that does not poll for this long is stuck and loses its partitions."""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what the group decided. Called in the client's thread while ``poll`` waits."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._lock = threading.Lock()
        self._owned: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()
        self._gained: set[TopicPartition] = set()
        self._num_rebalances = 0

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Nothing yet: what is given back in the same rebalance was never away."""

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Note the difference; hold what is new until its owner says from where to read."""
        now = {TopicPartition(*client) for client in assigned}
        with self._lock:
            gained = now - self._owned
            for at in gained:
                self._consumer.seek(ClientPartition(*at), 0)
                self._consumer.pause(ClientPartition(*at))
            self._lose(self._owned - now)
            self._gained |= gained
            self._owned = now
            self._num_rebalances += 1

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Note that others may have had them meanwhile, even if they come back."""
        gone = {TopicPartition(*client) for client in lost}
        with self._lock:
            self._lose(gone)
            self._owned -= gone

    def _lose(self, gone: set[TopicPartition]) -> None:
        self._lost |= gone - self._gained
        self._gained -= gone

    def take(self) -> Changes:
        with self._lock:
            changes = Changes(
                lost=sorted(self._lost), gained=sorted(self._gained), num=self._num_rebalances
            )
            self._lost, self._gained, self._num_rebalances = set(), set(), 0
        return changes

    def untold(self) -> set[TopicPartition]:
        with self._lock:
            return set(self._gained)

    def owned(self) -> tuple[TopicPartition, ...]:
        with self._lock:
            return tuple(sorted(self._owned))


class KafkaGroupReader(KafkaEventReader):
    """See ``SharedReader``. Not thread-safe."""

    def __init__(self, consumer: Any, endpoints: Endpoints, topics: Sequence[str], group: str):
        super().__init__(consumer, endpoints, (), group)
        self._listener = _Listener(consumer)
        self._held: set[TopicPartition] = set()
        consumer.subscribe(list(topics), listener=self._listener)
        _join_patiently(consumer)

    def assignment(self) -> Sequence[TopicPartition]:
        """See ``EventReader.assignment``."""
        return self._partitions

    def changes(self) -> Changes:
        """See ``SharedReader.changes``."""
        changes = self._listener.take()
        self._partitions = self._listener.owned()
        for at in (*changes.lost, *changes.gained):
            self._positions.pop(at, None)
        self._held = (self._held | set(changes.gained)) & set(self._partitions)
        return changes

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``EventReader.seek``; a partition that came begins to be read."""
        # In ``keep_alive`` some may have gone, or gone and come back: ``changes`` will tell.
        mine = set(self._listener.owned()) - self._listener.untold()
        positions = {at: offset for at, offset in positions.items() if at in mine}
        super().seek(positions)
        started = self._held & set(positions)
        if started:
            self._consumer.resume(*[ClientPartition(*at) for at in started])
            self._held -= started

    def keep_alive(self) -> None:
        """See ``SharedReader.keep_alive``."""
        reading = self._consumer.assignment() - self._consumer.paused()
        self._consumer.pause(*reading)
        try:
            super().poll(timeout_ms=_ALIVE_MS, max_records=1)
        finally:
            # What went and came back in between is held until its owner seeks.
            gained = self._listener.untold()
            still = reading & self._consumer.assignment()
            self._consumer.resume(*[c for c in still if TopicPartition(*c) not in gained])


def _join_patiently(consumer: Any) -> None:
    """Let ``poll`` wait for a join it began, whatever its time-out.

    kafka-python 3.0.12 forgets a join that outlasts the ``poll`` in which a change of the topic's
    partitions began it: the group counts the reader as a member that never reads nor heartbeats.
    """
    coordinator = consumer._coordinator
    join = coordinator.ensure_active_group
    coordinator.ensure_active_group = lambda timeout_ms=None: join(timeout_ms=_JOIN_MS)


def connect_group_reader(
    settings: Settings,
    endpoints: Endpoints,
    *,
    topic: str,
    group: str,
    config: ReaderConfig = FOLLOWING,
    membership: GroupConfig = GroupConfig(),
) -> KafkaGroupReader:
    """Give a reader that shares the partitions of ``topic`` with all others of ``group``.

    It joins with the first ``poll``.

    Raises:
        ServerError: when no broker answers or the topic does not exist.
    """
    options = consumer_options(settings, endpoints, group, config)
    wanted = f"connect a reader of {topic}"
    with explained(endpoints, wanted), closed_on_failure() as client:
        consumer = KafkaConsumer(
            **options,
            kafka_client=client,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=membership.session_timeout_ms,
            heartbeat_interval_ms=membership.heartbeat_interval_ms,
            max_poll_interval_ms=membership.max_poll_interval_ms,
        )
    try:
        reader = KafkaGroupReader(consumer, endpoints, [topic], group)
        with explained(endpoints, f"find the partitions of {topic}"):
            # After subscribing: a leader that knew no partitions when it joined joins once more.
            if topic not in consumer.topics():
                raise ValueError(f"no topic {topic!r} (ensure_topics creates it)")
        return reader
    except BaseException:
        consumer.close(autocommit=False)
        raise
