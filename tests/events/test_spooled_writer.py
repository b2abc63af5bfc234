"""The log goes away and comes back: nothing acknowledged is lost, counted twice or out of order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from recsys.endpoints import Endpoints
from recsys.errors import RecordRefusedError, ServerError, SpoolRefusalError
from recsys.events.kafka import connect_reader, connect_writer, ensure_topics
from recsys.events.memory import MemoryEventLog
from recsys.events.spool import Spool, SpoolBounds
from recsys.events.spool_groups import LogRecord
from recsys.events.spooled_writer import SpooledWriter, SpoolingConfig
from recsys.features.duplicates import DuplicateWindow
from recsys.settings import Settings
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from tests.events.conftest import ReadAll

QUICK = SpoolingConfig(
    ack_timeout_s=0.2, retry_s=0.01, look_s=0.02, orphans_s=0.05, stop_patience_s=2.0
)


class Log:
    """A log in memory that can be away, or refuse records for what they are."""

    def __init__(self) -> None:
        self.memory = MemoryEventLog(num_partitions=1)
        self.memory.ensure_topics(["t"])
        self.is_away = False
        self.num_calls = 0

    def connect(self) -> Writer:
        if self.is_away:
            raise ServerError("no broker")
        return Writer(self)

    def values(self) -> list[bytes]:
        reader = self.memory.reader(topics=["t"], group="test")
        return [record.value for record in reader.poll(timeout_ms=0, max_records=100_000)]


class Writer:
    """See ``EventWriter``."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.append = log.memory.writer().append
        self.abandoned = False

    def append_all(self, records: Iterable[LogRecord], timeout_s: float = 30.0) -> None:
        assert not self.abandoned, "a writer that failed is not used again"
        self._log.num_calls += 1
        for topic, key, value in records:
            if self._log.is_away:
                raise ServerError("away")
            if value.startswith(b"bad"):
                raise RecordRefusedError("too large")
            self.append(topic, key, value)

    def flush(self, timeout_s: float = 30.0) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        self.abandoned = True


def until(check: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


def some(*values: int) -> list[LogRecord]:
    return [("t", b"k", str(n).encode()) for n in values]


def test_the_disk_is_not_touched_while_the_log_answers(tmp_path: Path) -> None:
    log = Log()
    spool = Spool(tmp_path / "events.sqlite")
    writer = SpooledWriter(log.connect, spool, config=QUICK)
    writer.start()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for n in range(20):
        writer.append_all(some(n))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert writer.described() == "events: nothing waits"
    writer.close()
    assert log.values() == [b"%d" % n for n in range(20)]


def test_records_keep_their_order_while_the_log_goes_and_comes(tmp_path: Path) -> None:
    log = Log()
    writer = SpooledWriter(log.connect, Spool(tmp_path / "events.sqlite"), config=QUICK)
    writer.start()
    for n in range(600):
        log.is_away = n % 100 >= 50
        writer.append_all(some(n))
    log.is_away = True
    writer.append_all(some(600))
    assert "wait for the event log" in writer.described()
    log.is_away = False
    writer.close()
    found = list(dict.fromkeys(int(value) for value in log.values()))
    assert found == list(range(601))
    assert len(log.values()) < 601 + 20, "few come twice"


def test_a_log_that_is_away_from_the_start_is_waited_for_on_the_disk(tmp_path: Path) -> None:
    log = Log()
    log.is_away = True
    writer = SpooledWriter(log.connect, Spool(tmp_path / "events.sqlite"), config=QUICK)
    writer.start()
    writer.append_all(some(1, 2))
    writer.append_all(some(3))
    log.is_away = False
    until(lambda: log.values() == [b"1", b"2", b"3"])
    writer.close()


def test_a_record_the_log_will_never_take_stands_in_nobodys_way(tmp_path: Path) -> None:
    log = Log()
    spool = Spool(tmp_path / "events.sqlite")
    writer = SpooledWriter(log.connect, spool, config=QUICK)
    writer.start()
    until(lambda: writer.described() == "events: nothing waits")
    with pytest.raises(RecordRefusedError):  # told at once while somebody waits for it
        writer.append_all([("t", b"k", b"bad")])
    log.is_away = True
    writer.append_all([*some(1), ("t", b"k", b"bad too"), *some(2)])
    log.is_away = False
    until(lambda: spool.is_empty)
    [(reason, data)] = spool.refused()
    assert reason == "too large"
    assert b"bad too" in data
    assert list(dict.fromkeys(log.values())) == [b"1", b"2"]
    writer.close()


def test_what_is_caught_up_with_leaves_as_much_time_to_others_as_it_takes(tmp_path: Path) -> None:
    log = Log()
    spool = Spool(tmp_path / "events.sqlite")
    for _ in range(4):  # any two are too large to travel together
        spool.add([("t", b"k", bytes(600_000))])
    times_s: list[tuple[float, float]] = []

    class Slow(Writer):
        def append_all(self, records: Iterable[LogRecord], timeout_s: float = 30.0) -> None:
            begin_s = time.monotonic()
            time.sleep(0.03)
            super().append_all(records, timeout_s)
            times_s.append((begin_s, time.monotonic()))

    writer = SpooledWriter(lambda: Slow(log), spool, config=QUICK)
    writer.start()
    until(lambda: len(log.values()) == 4)
    writer.close()
    for (begin_s, end_s), (next_s, _) in pairwise(times_s):
        assert next_s - end_s >= 0.9 * (end_s - begin_s)


def test_a_mistake_does_not_end_the_sending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    mistakes = iter([RuntimeError("unforeseen"), RuntimeError("again")])

    def connect() -> Writer:
        for mistake in mistakes:
            raise mistake
        return log.connect()

    writer = SpooledWriter(connect, Spool(tmp_path / "events.sqlite"), config=QUICK)
    writer.start()
    writer.append_all(some(1))
    until(lambda: log.values() == [b"1"])
    writer.close()
    assert "sending failed, and is tried again" in caplog.text


def test_without_room_callers_are_told_and_what_was_taken_is_sent(tmp_path: Path) -> None:
    log = Log()
    log.is_away = True
    spool = Spool(tmp_path / "events.sqlite", SpoolBounds(max_bytes=10))
    writer = SpooledWriter(log.connect, spool, config=QUICK)
    writer.start()
    writer.append_all(some(1, 2, 3))
    with pytest.raises(SpoolRefusalError, match="bring the event log back"):
        writer.append_all(some(4, 5, 6))
    log.is_away = False
    until(lambda: spool.is_empty)
    writer.append_all(some(7))
    writer.close()
    assert log.values() == [b"1", b"2", b"3", b"7"]


_CHILD = """
import sys
from pathlib import Path
from recsys.errors import ServerError
from recsys.events.spool import Spool
from recsys.events.spool_folder import take_folder
from recsys.events.spooled_writer import SpooledWriter, SpoolingConfig

def connect():
    raise ServerError("no broker")

folder = take_folder(Path(sys.argv[1]))
spool = Spool(folder.path / "events.sqlite")
writer = SpooledWriter(connect, spool, config=SpoolingConfig(retry_s=0.01))
writer.start()
for n in range(1_000_000):
    writer.append_all([("t", b"k", b"%d" % n)])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_what_a_killed_process_acknowledged_is_sent_by_another(tmp_path: Path) -> None:
    acknowledged = 0
    log = Log()
    writer: SpooledWriter | None = None
    mine = tmp_path / "mine"
    spool = Spool(mine / "events.sqlite")
    writer = SpooledWriter(log.connect, spool, adopt_from=tmp_path, config=QUICK)
    writer.start()
    for delay_s in (0.0, 0.05, 0.2):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay_s)
        child.kill()
        told = child.communicate()[0].split()
        acknowledged = int(told[-1]) + 1 if told else 1
        seen = len(log.values())
        wanted = [b"%d" % n for n in range(acknowledged)]
        until(lambda wanted=wanted, seen=seen: log.values()[seen:][: len(wanted)] == wanted)
        # One more may have been on the disk, and nobody told of it.
        until(lambda: not (tmp_path / "0" / "events.sqlite").exists())
        assert len(log.values()) - seen - acknowledged in (0, 1)
    writer.close()


@pytest.mark.servers
def test_kafka_killed_under_load_loses_nothing_and_counts_nothing_twice(
    own_settings: Settings,
    own_server: Callable[[Launch], subprocess.Popen[bytes]],
    kafka_bootstrap: str,  # skips where Kafka cannot be had
    read_all: ReadAll,
    tmp_path: Path,
) -> None:
    launch = kafka_launch(own_settings, lambda line: None)
    broker = own_server(launch)
    endpoints = Endpoints(kafka_bootstrap_servers=launch.address, broker_profile="kafka")
    ensure_topics(own_settings, endpoints, ["t"])
    spool = Spool(tmp_path / "events.sqlite")
    writer = SpooledWriter(
        lambda: connect_writer(own_settings, endpoints, timeout_s=2.0),
        spool,
        config=SpoolingConfig(ack_timeout_s=0.5, retry_s=0.1, send_timeout_s=5.0),
    )
    writer.start()
    sent = 0
    largest_wait_s = 0.0
    back: threading.Timer | None = None
    start = time.monotonic()
    while back is None or back.is_alive() or time.monotonic() - start < 6.0:
        began = time.monotonic()
        writer.append_all([("t", b"user-%d" % (n % 5), b"%d" % n) for n in range(sent, sent + 10)])
        largest_wait_s = max(largest_wait_s, time.monotonic() - began)
        sent += 10
        if back is None and time.monotonic() - start > 1.0:
            os.kill(broker.pid, signal.SIGKILL)
            broker.wait()
            back = threading.Timer(1.5, own_server, [launch])
            back.start()
        time.sleep(0.005)
    assert largest_wait_s < 2.0, "callers wait for the disk, not for the broker"
    until(lambda: spool.is_empty, timeout_s=20.0)
    writer.append_all([("t", b"user-0", b"%d" % sent)])
    assert spool.is_empty, "in the log itself again"
    writer.close()

    reader = connect_reader(own_settings, endpoints, topics=["t"], group="g")
    records = read_all(reader, sent + 1)
    while more := reader.poll(timeout_ms=500, max_records=10_000):
        records += more
    reader.close()
    counted: dict[bytes, list[int]] = defaultdict(list)
    windows: dict[int, DuplicateWindow] = defaultdict(DuplicateWindow)
    for record in records:  # as the stream worker counts them
        if not windows[record.partition].seen_before(record.value.decode(), record.offset):
            counted[record.key or b""].append(int(record.value))
    assert sorted(n for values in counted.values() for n in values) == list(range(sent + 1))
    assert all(values == sorted(values) for values in counted.values())
