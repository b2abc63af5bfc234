"""Events wait for the log's acknowledgement, exposures do not; both end in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from recsys.errors import OverloadedError, ServerError
from recsys.events.direct_writer import DirectWriter
from recsys.events.memory import MemoryEventLog
from recsys.events.spool import Spool, SpoolBounds
from recsys.events.spooled_writer import SpooledWriter, SpoolingConfig
from recsys.feedback.exposure import Exposure, decode_exposure
from recsys.telemetry import EXPOSURES_DROPPED
from serving.api.event_publisher import EventPublisher, PublisherConfig
from serving.api.exposure_log import ExposureLog, ExposureLogConfig


class SlowWriter:
    """Acknowledges when its gate is open; fails the first ``num_failures`` times."""

    def __init__(self, num_failures: int = 0) -> None:
        self.gate = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[tuple[str, bytes, bytes]]] = []
        self.num_failures = num_failures
        self.closed = False

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        self.append_all([(topic, key, value)])

    def append_all(
        self, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0
    ) -> None:
        self.began.set()
        self.gate.wait(5)
        if self.num_failures:
            self.num_failures -= 1
            raise ServerError("the log is away")
        self.batches.append(list(records))

    def flush(self, timeout_s: float = 30.0) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.closed = True


def record(n: int) -> tuple[str, bytes, bytes]:
    return ("t", b"k", str(n).encode())


def test_batches_that_wait_travel_together() -> None:
    writer = SlowWriter()
    publisher = EventPublisher(DirectWriter(lambda: writer))
    publisher.start()

    async def run() -> None:
        calls = [asyncio.create_task(publisher.publish([record(0)]))]
        await asyncio.to_thread(writer.began.wait, 5)
        calls += [asyncio.create_task(publisher.publish([record(n)])) for n in (1, 2, 3)]
        await asyncio.sleep(0.02)
        assert not any(call.done() for call in calls)
        writer.gate.set()
        await asyncio.gather(*calls)

    asyncio.run(run())
    publisher.stop()
    assert writer.batches == [[record(0)], [record(1), record(2), record(3)]]
    assert writer.closed


def test_a_failed_append_is_told_and_the_next_one_works() -> None:
    writer = SlowWriter(num_failures=1)
    writer.gate.set()
    publisher = EventPublisher(DirectWriter(lambda: writer))
    publisher.start()
    with pytest.raises(ServerError, match="away"):
        asyncio.run(publisher.publish([record(0)]))
    asyncio.run(publisher.publish([record(1)]))
    publisher.stop()
    assert writer.batches == [[record(1)]]


def test_a_log_that_cannot_be_reached_is_told_and_asked_again() -> None:
    writer = SlowWriter()
    writer.gate.set()
    attempts = iter([ServerError("no broker"), ServerError("no broker"), writer])

    def connect() -> SlowWriter:
        attempt = next(attempts)
        if isinstance(attempt, ServerError):
            raise attempt
        return attempt

    publisher = EventPublisher(DirectWriter(connect))
    publisher.start()
    with pytest.raises(ServerError, match="no broker"):
        asyncio.run(publisher.publish([record(0)]))
    asyncio.run(publisher.publish([record(1)]))
    publisher.stop()


def test_too_many_waiting_batches_are_refused_at_once() -> None:
    writer = SlowWriter()
    publisher = EventPublisher(DirectWriter(lambda: writer), PublisherConfig(max_waiting=1))
    publisher.start()

    async def run() -> None:
        first = asyncio.create_task(publisher.publish([record(0)]))
        await asyncio.to_thread(writer.began.wait, 5)
        second = asyncio.create_task(publisher.publish([record(1)]))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await publisher.publish([record(2)])
        writer.gate.set()
        await asyncio.gather(first, second)

    asyncio.run(run())
    publisher.stop()


def exposure(n: int) -> Exposure:
    return Exposure(
        request_id=f"r{n}",
        user_id="ann",
        route="recommendations",
        now_ms=n,
        bundle="b",
        rung="full",
        item_ids=["a"],
        scores=[0.5],
        request=msgspec.Raw(b'{"user_id":"ann"}'),
    )


def test_exposures_survive_a_log_that_is_away_for_a_while(tmp_path: Path) -> None:
    log = MemoryEventLog()
    log.ensure_topics(["exposures"])
    attempts = iter([ServerError("no broker"), log.writer()])

    def connect() -> object:
        attempt = next(attempts)
        if isinstance(attempt, ServerError):
            raise attempt
        return attempt

    writer = SpooledWriter(
        connect,  # type: ignore[arg-type]
        Spool(tmp_path / "exposures.sqlite"),
        config=SpoolingConfig(retry_s=0.01),
    )
    exposures = ExposureLog(
        writer, topic="exposures", config=ExposureLogConfig(max_waiting=2, linger_s=0.01)
    )
    for n in range(3):  # the third finds no room: dropped, counted, and never waited for
        exposures.offer(partial(exposure, n))
    exposures.start()
    exposures.stop()
    records = log.reader(topics=["exposures"], group="g").poll(timeout_ms=0, max_records=10)
    assert [decode_exposure(r.value).request_id for r in records] == ["r0", "r1"]
    assert bytes(decode_exposure(records[0].value).request) == b'{"user_id":"ann"}'


def test_exposures_without_a_log_and_without_room_are_dropped_and_counted(tmp_path: Path) -> None:
    def connect() -> object:
        raise ServerError("no broker")

    writer = SpooledWriter(
        connect,  # type: ignore[arg-type]
        Spool(tmp_path / "exposures.sqlite", SpoolBounds(max_bytes=10)),
        config=SpoolingConfig(retry_s=0.01, stop_patience_s=0.1),
    )
    before = EXPOSURES_DROPPED._value.get()
    exposures = ExposureLog(writer, topic="exposures")
    exposures.offer(partial(exposure, 0))
    exposures.start()
    exposures.stop()
    assert EXPOSURES_DROPPED._value.get() == before + 1


def test_events_are_taken_while_the_log_is_away(tmp_path: Path) -> None:
    log = MemoryEventLog()
    log.ensure_topics(["t"])
    away = threading.Event()
    away.set()

    def connect() -> object:
        if away.is_set():
            raise ServerError("no broker")
        return log.writer()

    writer = SpooledWriter(
        connect,  # type: ignore[arg-type]
        Spool(tmp_path / "events.sqlite"),
        config=SpoolingConfig(retry_s=0.01),
    )
    publisher = EventPublisher(writer)
    publisher.start()

    async def run() -> None:
        await asyncio.gather(*(publisher.publish([record(n)]) for n in range(5)))

    asyncio.run(run())
    away.clear()
    publisher.stop()
    records = log.reader(topics=["t"], group="g").poll(timeout_ms=0, max_records=10)
    assert sorted(r.value for r in records) == [b"0", b"1", b"2", b"3", b"4"]
