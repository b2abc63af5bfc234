"""Workers that sleep while others have their partitions, over a real store.

A sleeper is a worker stopped between reading what it needs of the store and writing; meanwhile
another one applies the same records, and all that follow. Whatever the sleeper then does, the store
must be as if it had died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recsys.clock import DAY_MS
from recsys.events.codec import encode
from recsys.events.log import Changes, FixedShare, Record, TopicPartition
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import Event, ForgetEvent, InteractionEvent
from recsys.events.sink import EventSink
from recsys.features.guarded_writer import GuardedWriter, StoreChangedError
from recsys.features.hashes import VERSION_FIELD, Write
from recsys.features.key_layout import project_of_key
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.redis.client import RedisClient
from recsys.features.redis.replies import ErrorReply
from recsys.features.redis_hashes import RedisHashes, RedisKeys, connect
from recsys.features.sent_writes import SentWrites
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerConfig, WorkerRun
from tests.features.redis.redis_servers import urls
from tests.features.worlds import TOPICS, small_plan

pytestmark = pytest.mark.servers

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
Deed = Callable[[], None]


def click(n: int, user: str = "ada") -> InteractionEvent:
    return InteractionEvent(
        event_id=f"{user}{n}", event_time_ms=T0 + n, user_id=user, item_id="i1", type="click"
    )


def forget(n: int, user: str = "ada") -> ForgetEvent:
    return ForgetEvent(event_id=f"f{n}", event_time_ms=T0 + n, user_id=user)


class SleepyWriter(GuardedWriter):
    """Sleeps once, before it sends its nth write; ``meanwhile`` others act."""

    sleep_before = -1
    meanwhile: Deed
    num_writes = 0

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        self._sleep(writes)
        return super().write(writes)

    def send(self, writes: Sequence[Write]) -> SentWrites:
        self._sleep(writes)
        return super().send(writes)

    def _sleep(self, writes: Sequence[Write]) -> None:
        if writes:
            if self.num_writes == self.sleep_before:
                self.sleep_before = -1
                self.meanwhile()
            self.num_writes += 1


class GivenShare(FixedShare):
    """Has all partitions until they are with others; hears of it when it asks."""

    news: Changes | None = None
    is_away = False

    def changes(self) -> Changes:
        news, self.news = self.news, None
        return news or super().changes()

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        if self.is_away:
            return []
        return super().poll(timeout_ms=timeout_ms, max_records=max_records)


class Place:
    """A log in memory and a namespace of a real store."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.namespace = namespace
        self.plan = small_plan("test")
        self.client: Any = connect(url)
        self.client.flushdb()
        self.log = MemoryEventLog(num_partitions=2)
        self.log.ensure_topics(TOPICS.all())
        self.store = RedisHashes(url)
        self.num_runs = 0
        self.open: list[GuardedWriter | RedisHashes] = [self.store]

    def send(self, *events: Event) -> None:
        writer = self.log.writer()
        for event in events:
            topic, key = TOPICS.route(event)
            writer.append(topic, key, encode(event))
        writer.flush()

    def sleeps(self, share: GivenShare) -> None:
        """Have the group give its partitions to others."""
        share.is_away, share.news = True, Changes(sorted(share.assignment()), [], 1)

    def begin(
        self, kind: type[SleepyWriter] = SleepyWriter
    ) -> tuple[WorkerRun, SleepyWriter, GivenShare]:
        """Start a worker that has all partitions, as far as it knows."""
        writer = kind(self.url, TOPICS.namespace)
        self.open.append(writer)
        stream = FeatureStream(self.plan, self.store, TOPICS)
        if not writer.begin():
            writer.found(stream.layout)
        self.num_runs += 1
        folder = self.folder / str(self.num_runs)
        share = GivenShare(self.log.reader(topics=[TOPICS.behaviour], group="f"))
        run = WorkerRun(
            stream=stream,
            store=self.store,
            writer=writer,
            keys=RedisKeys(self.client),
            items=self.log.reader(topics=[TOPICS.items], group="f"),
            behaviour=share,
            dead_letters=self.log.writer(),
            sinks=PartitionSinks(lambda at: EventSink(folder, [at])),
            topics=TOPICS,
            clock=lambda: T0,
            config=WorkerConfig(poll_timeout_ms=1),
        )
        run.start()
        return run, writer, share

    def run(self) -> None:
        """Have a worker apply everything, and end."""
        run, _, _ = self.begin()
        finish(run)

    def content(self) -> dict[bytes, dict[bytes, bytes]]:
        """Give all features, without the count of their writes."""
        content: dict[bytes, dict[bytes, bytes]] = {}
        for key in self.client.scan_iter():
            if project_of_key(key) == "test":
                fields: dict[bytes, bytes] = self.client.hgetall(key)
                content[key] = {f: v for f, v in fields.items() if f != VERSION_FIELD}
        return content

    def users(self) -> set[bytes]:
        return {key for key in self.content() if b"user_id" in key}

    def close(self) -> None:
        for one in self.open:
            one.close()
        self.client.flushdb()
        self.client.close()


def finish(run: WorkerRun) -> None:
    while run.step():
        pass
    run.close()


@pytest.fixture(params=["server", "cluster"])
def place(request: pytest.FixtureRequest, namespace: str, tmp_path: Path) -> Iterator[Place]:
    if request.param == "server":
        url = request.getfixturevalue("redis_url")
    else:
        url = urls(request.getfixturevalue("cluster_launches"))
    place = Place(url, namespace, tmp_path)
    yield place
    place.close()


def undisturbed(place: Place) -> dict[bytes, dict[bytes, bytes]]:
    """Give what a worker that nobody disturbs makes of the same log."""
    place.client.flushdb()
    place.run()
    return place.content()


def test_a_user_forgotten_while_it_slept_stays_gone(place: Place) -> None:
    sleeper, writer, share = place.begin()
    place.send(click(0), click(1))

    def meanwhile() -> None:
        place.sleeps(share)
        place.send(forget(2))
        place.run()
        assert place.users() == set()

    writer.sleep_before, writer.meanwhile = 0, meanwhile
    sleeper.step()
    assert place.users() == set(), "the sleeper had read that there was no such user"
    finish(sleeper)
    assert place.users() == set()
    assert place.content() == undisturbed(place)


@pytest.mark.parametrize("num_before", [1, 3])
def test_a_user_who_came_back_while_it_slept_begins_anew(place: Place, num_before: int) -> None:
    sleeper, writer, share = place.begin()
    for n in range(num_before):
        place.send(click(n))
        sleeper.step()
    place.send(click(10))

    def meanwhile() -> None:
        place.sleeps(share)
        other, _, _ = place.begin()
        place.send(forget(11))
        for n in range(num_before):  # until the count of writes is what the sleeper knows
            while other.step():
                pass
            place.send(click(20 + n))
        finish(other)

    writer.sleep_before, writer.meanwhile = num_before, meanwhile
    sleeper.step()
    finish(sleeper)
    assert place.content() == undisturbed(place)


def test_what_came_after_is_not_forgotten_by_one_who_slept(place: Place) -> None:
    sleeper, writer, share = place.begin()
    place.send(click(0), forget(1))

    def meanwhile() -> None:
        place.sleeps(share)
        place.send(click(2))
        place.run()

    writer.sleep_before, writer.meanwhile = 1, meanwhile  # the clicks, then the removal
    sleeper.step()
    assert place.users(), "the click after it"
    finish(sleeper)
    place.send(click(3))
    place.run()
    assert place.content() == undisturbed(place)


def test_who_gets_a_partition_back_remembers_nothing_of_its_users(place: Place) -> None:
    run, _, share = place.begin()
    place.send(click(0))
    while run.step():
        pass
    place.sleeps(share)
    place.send(forget(1), click(2))
    place.run()  # the count of writes is 1, as it was
    run.step()
    share.is_away, share.news = False, Changes([], sorted(share.assignment()), 1)
    place.send(click(3))
    finish(run)
    assert place.content() == undisturbed(place)


def test_two_that_believe_to_own_a_partition_spoil_nothing(place: Place) -> None:
    one, _, _ = place.begin()
    two, _, _ = place.begin()
    for n in range(12):
        place.send(click(n), click(n, f"u{n % 5}"), forget(n, f"u{n % 3}"))
        (one, two, two)[n % 3].step()
    finish(one)
    finish(two)
    assert place.content() == undisturbed(place)


def test_a_partition_is_written_by_its_last_taker_alone(place: Place) -> None:
    place.run()
    at, other = (TopicPartition(TOPICS.behaviour, p) for p in (0, 1))
    old, new = GuardedWriter(place.url, "test"), GuardedWriter(place.url, "test")
    place.open += [old, new]
    assert old.begin() and new.begin()
    old.take([at])
    new.take([other])
    assert old.write([Write(b"k", {b"x": b"1"}, 0)]) == []
    assert new.write([Write(b"k", {}, 1, remove=True)]) == []
    new.take([at])
    for deed in (
        lambda: old.write([Write(b"k", {b"x": b"1"}, 0)]),
        lambda: old.advance({b"t/0": 9}),
        lambda: old.take([at]),
        lambda: old.take([other]),
    ):
        with pytest.raises(StoreChangedError, match=r"owner:\S+:0 to be another worker now"):
            deed()
    assert place.client.exists("k") == 0
    old.let_go([at])
    assert old.write([Write(b"k", {b"x": b"1"}, 0)]) == []
    assert new.write([Write(b"k", {b"x": b"2"}, 1)]) == []


class EchoingWriter(SleepyWriter):
    """Keeps what it sends, to send it once more."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(url, namespace)
        self.sent: list[tuple[bytes, bytes]] = []

    def _command(self, *given: Any) -> bytes:
        return self._kept(given[1], super()._command(*given))

    def _write_command(self, *given: Any) -> bytes:
        return self._kept(given[0], super()._write_command(*given))

    def _kept(self, node: int, command: bytes) -> bytes:
        if (self._layout.keys[node], command) not in self.sent[-1:]:
            self.sent.append((self._layout.keys[node], command))
        return command


def test_what_arrives_twice_and_late_is_refused_after_a_forgetting(place: Place) -> None:
    run, writer, _ = place.begin(EchoingWriter)
    assert isinstance(writer, EchoingWriter)
    place.send(click(0), click(1))
    while run.step():
        pass
    place.send(forget(2))
    while run.step():
        pass
    assert place.users() == set()
    place.send(click(3))
    finish(run)
    before = place.content()
    late = RedisClient(place.url)
    refused = 0
    for key, command in writer.sent[:-4]:  # all but the last write and its progress
        (reply,) = late.call([key], [command])
        if isinstance(reply, ErrorReply):
            assert "another worker" in str(reply)
            refused += 1
    late.close()
    assert refused >= 4, "two writes, the removal and a taking"
    assert place.content() == before
