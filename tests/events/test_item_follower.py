"""Following the item topic: every picture sees each change once, from where it began."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from recsys.errors import ServerError
from recsys.events.codec import encode
from recsys.events.item_follower import FollowConfig, ItemChange, ItemFollower
from recsys.events.log import EventReader, TopicPartition
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import ItemEvent
from recsys.telemetry import CATALOGUE_CHANGES_LATE

TOPIC = "t.items"
CONFIG = FollowConfig(poll_ms=20)


class Picture:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.changes: list[ItemChange] = []
        self.fails = 0

    def apply(self, changes: Sequence[ItemChange]) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("no")
        self.changes += changes

    def said(self, item_id: str) -> list[bool]:
        return [c.event.available for c in self.changes if c.event.item_id == item_id]


class Log:
    """A log with a clock of its own, that may be away."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.log = MemoryEventLog(num_partitions=2, clock=lambda: self.now_ms)
        self.log.ensure_topics([TOPIC])
        self.is_away = False
        self.readers: list[EventReader] = []

    def say(self, item_id: str, *, available: bool, at_ms: int = 1_600_000_000_000) -> None:
        event = ItemEvent(
            event_id=f"{item_id}-{time.monotonic_ns()}", event_time_ms=at_ms, item_id=item_id,
            available=available,
        )  # fmt: skip
        self.log.writer().append(TOPIC, item_id.encode(), encode(event))

    def connect(self) -> EventReader:
        if self.is_away:
            raise ServerError("away")
        reader = self.log.reader(topics=[TOPIC], group="f")
        self.readers.append(reader)
        return reader

    def ends(self) -> dict[str, int]:
        reader = self.log.reader(topics=[TOPIC], group="f")
        bounds = reader.bounds(reader.assignment())
        return {f"{at.topic}:{at.partition}": end for at, (_, end) in bounds.items()}


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def follower(log: Log) -> Iterator[ItemFollower]:
    follower = ItemFollower(log.connect, config=CONFIG, clock=lambda: log.now_ms)
    yield follower
    follower.stop()


def wait_for(check: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end_s, "waited 10 s"
        time.sleep(0.002)


def test_a_picture_sees_what_came_before_it_and_what_comes(
    log: Log, follower: ItemFollower
) -> None:
    for number in range(20):
        log.say(f"i{number}", available=True)
    picture = Picture()
    follower.add(picture, {})
    follower.start()
    assert follower.wait(10)
    assert {c.event.item_id for c in picture.changes} == {f"i{n}" for n in range(20)}
    log.say("i3", available=False)
    wait_for(lambda: picture.said("i3") == [True, False])
    places = [(c.at, c.offset) for c in picture.changes]
    assert len(set(places)) == len(places) == 21


def test_a_later_picture_begins_where_it_was_taken_and_others_see_nothing_twice(
    log: Log, follower: ItemFollower
) -> None:
    first, whole = Picture(), Picture()
    follower.add(first, {})
    log.say("a", available=False)
    follower.start()
    assert follower.wait(10)
    known = log.ends()
    log.say("a", available=True)
    wait_for(lambda: first.said("a") == [False, True])
    later = Picture()
    follower.add(later, known)
    follower.add(whole, {})
    assert follower.wait(10)
    assert later.said("a") == [True]
    assert whole.said("a") == first.said("a") == [False, True]


def test_a_slow_log_is_waited_for_and_one_that_fails_only_so_long(log: Log) -> None:
    log.say("a", available=True)
    let_go = threading.Event()

    def slowly() -> EventReader:
        let_go.wait(10)
        return log.connect()

    slow = ItemFollower(slowly, config=CONFIG, clock=lambda: log.now_ms)
    picture = Picture()
    slow.add(picture, {})
    slow.start()
    threading.Timer(0.3, let_go.set).start()
    assert slow.wait(10, failing_s=0.01) and picture.said("a") == [True]
    slow.stop()

    log.is_away = True
    failing = ItemFollower(log.connect, config=CONFIG, clock=lambda: log.now_ms)
    failing.add(picture, {})
    failing.start()
    began_s = time.monotonic()
    assert not failing.wait(60, failing_s=0.2)
    assert time.monotonic() - began_s < 30
    failing.stop()


def test_a_log_that_was_away_and_a_picture_that_failed_miss_nothing(
    log: Log, follower: ItemFollower
) -> None:
    picture = Picture()
    log.is_away = True
    follower.add(picture, {})
    follower.start()
    assert not follower.wait(0.05)
    log.say("a", available=False)
    picture.fails = 2
    log.is_away = False
    wait_for(lambda: picture.said("a") == [False])
    assert len(log.readers) == 3  # anew after each failure


def test_a_log_that_says_nothing_new_is_not_waited_for(log: Log) -> None:
    picture = Picture()
    log.say("a", available=False)
    patient = ItemFollower(log.connect, config=FollowConfig(poll_ms=60_000))
    patient.add(picture, log.ends())
    patient.start()
    try:
        assert patient.wait(10), "its first poll ends after a minute"
    finally:
        log.say("a", available=True)  # ends the poll
        wait_for(lambda: picture.said("a") == [True])
        patient.stop()


def test_what_is_no_event_of_an_item_is_passed_over(log: Log, follower: ItemFollower) -> None:
    picture = Picture()
    writer = log.log.writer()
    writer.append(TOPIC, b"a", b"no event")
    log.say("a", available=False)
    follower.add(picture, {})
    follower.start()
    wait_for(lambda: picture.said("a") == [False])


def test_positions_that_the_log_no_longer_has_are_read_from_what_is_left(
    log: Log, follower: ItemFollower, caplog: pytest.LogCaptureFixture
) -> None:
    log.say("a", available=False)
    picture = Picture()
    follower.add(picture, {f"{TOPIC}:0": 99, f"{TOPIC}:1": 99})
    follower.start()
    assert follower.wait(10)
    assert picture.said("a") == [False]
    assert "wanted those from 99 on" in caplog.text


def test_a_picture_that_nobody_holds_is_no_longer_told(log: Log, follower: ItemFollower) -> None:
    picture, kept = Picture(), Picture()
    told = picture.changes
    follower.add(picture, {})
    follower.add(kept, {})
    follower.start()
    assert follower.wait(10)
    del picture
    log.say("a", available=False)
    wait_for(lambda: kept.said("a") == [False])
    log.say("b", available=False)
    wait_for(lambda: kept.said("b") == [False])
    assert "b" not in {c.event.item_id for c in told}


def test_only_what_the_log_received_since_and_was_taken_in_late_is_late(
    log: Log, follower: ItemFollower
) -> None:
    def late() -> float:
        return CATALOGUE_CHANGES_LATE._value.get()

    before = late()
    log.say("old", available=True)
    log.now_ms += 60_000
    picture = Picture()
    follower.add(picture, {})
    follower.start()
    assert follower.wait(10) and picture.said("old") == [True]
    assert late() == before
    log.say("new", available=True)
    wait_for(lambda: picture.said("new") == [True])
    assert late() == before
    picture.fails, log.is_away = 1, True  # the log goes away while it is read
    log.say("late", available=True)
    wait_for(lambda: picture.fails == 0)
    log.now_ms += 2_001
    log.is_away = False
    wait_for(lambda: picture.said("late") == [True])
    wait_for(lambda: late() == before + 1)


def test_changes_say_where_they_stand(log: Log, follower: ItemFollower) -> None:
    picture = Picture()
    follower.add(picture, {})
    log.say("a", available=False)
    log.say("a", available=True)
    follower.start()
    wait_for(lambda: len(picture.changes) == 2)
    at = picture.changes[0].at
    assert isinstance(at, TopicPartition) and [c.offset for c in picture.changes] == [0, 1]
