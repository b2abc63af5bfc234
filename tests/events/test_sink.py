from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.clock import DAY_MS
from recsys.errors import ConfigurationError
from recsys.events import durable_files
from recsys.events.codec import encode
from recsys.events.event_columns import SCHEMA, frame_of, to_events, to_frame
from recsys.events.event_log import iter_logged_events, scan
from recsys.events.log import Record, TopicPartition
from recsys.events.log_compaction import CompactionConfig, compact
from recsys.events.log_files import data_files
from recsys.events.log_verify import verify
from recsys.events.schema import Event
from recsys.events.sink import CommitRefusedError, EventSink, SinkConfig
from tests import children
from tests.events import sink_worker
from tests.events.samples import DAY, click, events

TOPIC = "t.behaviour"
AT = TopicPartition(TOPIC, 0)


def logged(
    numbers: Iterable[int], *, partition: int = 0, time_ms: int | None = None
) -> list[tuple[Record, Event | None]]:
    rows: list[tuple[Record, Event | None]] = []
    for n in numbers:
        event = click(n, time_ms=DAY + n if time_ms is None else time_ms)
        rows.append((Record(TOPIC, partition, n, b"u", encode(event), DAY * 2), event))
    return rows


def write(folder: Path, numbers: Iterable[int], **options: int) -> None:
    sink = EventSink(folder, [AT])
    sink.write(logged(numbers, **options))
    sink.close()


@given(st.lists(events, min_size=1, max_size=20))
def test_events_survive_the_columns(sample: list[Event]) -> None:
    rows = [(Record("t", 0, n, b"k", b"", 5), event) for n, event in enumerate(sample)]
    assert list(to_events(frame_of([r for r, _ in rows], sample))) == sample
    frame = to_frame(rows)
    assert dict(frame.schema) == SCHEMA
    assert list(to_events(frame)) == sample


def test_the_first_file_of_a_worker_does_not_wait_for_pandas() -> None:
    code = """
import sys
from recsys.events.event_columns import frame_of
from recsys.events.log import Record
from recsys.events.log_format import parquet_of
from recsys.events.schema import ImpressionEvent

shown = ImpressionEvent(event_id="e", event_time_ms=1763800000000, user_id="u", request_id="r",
                        items=["a", "b"])
parquet_of(frame_of([Record("t", 0, 0, b"k", b"", 5)], [shown]))
assert "pandas" not in sys.modules, "pyarrow imports it in the midst of events"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("chunk_rows", [1, 2, 4_000])
def test_a_run_with_gaps_refused_records_and_what_is_there_already(
    tmp_path: Path, chunk_rows: int
) -> None:
    rows = [*logged(range(5)), *logged([7, 8]), *logged([12], time_ms=DAY * 3), *logged([13])]
    rows[2] = (rows[2][0], None)
    records, values = [r for r, _ in rows], [e for _, e in rows]
    sink = EventSink(tmp_path, [AT], config=SinkConfig(chunk_rows=chunk_rows))
    sink.write_run(AT, records[:4], values[:4])
    sink.flush()
    sink.write_run(AT, records[:3], values[:3])  # nothing of it is new
    sink.write_run(AT, records, values)
    sink.write_run(AT, [], [])
    sink.close()
    frame = scan(tmp_path, [TOPIC]).collect().sort("offset")
    assert frame["offset"].to_list() == [0, 1, 3, 4, 7, 8, 12, 13]
    found = verify(tmp_path)
    assert (found.num_rows, found.num_refused) == (8, 1)
    assert EventSink(tmp_path, [AT]).positions() == {AT: 14}


def test_files_lie_by_event_date_and_are_read_back(tmp_path: Path) -> None:
    sink = EventSink(tmp_path, [AT])
    sink.write(logged([0, 1]) + logged([2], time_ms=DAY - DAY_MS))
    assert list(scan(tmp_path, [TOPIC]).collect()["offset"]) == []
    sink.flush()
    assert sink.positions() == {AT: 3}
    sink.close()
    files = [str(file.path.relative_to(tmp_path)) for file in data_files(tmp_path, TOPIC)]
    assert [file.rpartition("-")[0] for file in files] == [
        f"{TOPIC}/date=2024-09-09/{TOPIC}-0-0",
        f"{TOPIC}/date=2024-09-10/{TOPIC}-0-0",
    ]
    assert (tmp_path / TOPIC / "_commits" / "0-0.json").is_file()
    frame = scan(tmp_path, [TOPIC]).collect()
    assert dict(frame.schema) == SCHEMA
    assert sorted(frame["offset"]) == [0, 1, 2]
    assert set(frame["ingest_time_ms"]) == {DAY * 2}
    assert [event.event_id for event in iter_logged_events(tmp_path, [TOPIC])] == ["e2", "e0", "e1"]
    assert verify(tmp_path).is_sound


def test_scan_opens_only_the_dates_and_kinds_asked_for(tmp_path: Path) -> None:
    write(tmp_path, range(10), time_ms=DAY)
    sink = EventSink(tmp_path, [AT])
    sink.write(logged(range(10, 20), time_ms=DAY + DAY_MS))
    sink.close()
    for file in data_files(tmp_path, TOPIC):
        if file.date == "2024-09-10":
            file.path.write_bytes(b"not Parquet, and nobody looks")
    start_ms = DAY + DAY_MS
    assert scan(tmp_path, [TOPIC], start_ms=start_ms).collect().height == 10
    assert scan(tmp_path, [TOPIC], start_ms=start_ms, kinds=["item"]).collect().height == 0
    assert scan(tmp_path, [TOPIC], start_ms=start_ms + 1).collect().height == 0
    assert scan(tmp_path, ["t.unknown"]).collect().height == 0


def test_records_read_again_are_written_once(tmp_path: Path) -> None:
    write(tmp_path, range(10))
    write(tmp_path, range(15))
    write(tmp_path, range(12))
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(15))
    assert verify(tmp_path).is_sound


def test_buffers_are_written_when_full_or_old(tmp_path: Path) -> None:
    now_s = [0.0]
    config = SinkConfig(max_rows=5, max_age_s=10)
    sink = EventSink(tmp_path, [AT], config=config, monotonic_s=lambda: now_s[0])
    sink.write(logged(range(4)))
    assert sink.positions() == {}
    sink.write(logged(range(4, 6)))
    assert sink.positions() == {AT: 6}
    sink.write(logged([6]))
    now_s[0] = 9.9
    sink.flush_if_due()
    assert sink.positions() == {AT: 6}
    now_s[0] = 10.0
    sink.flush_if_due()
    assert sink.positions() == {AT: 7}
    sink.close()


def test_refused_records_are_counted_and_missing_ones_reported(tmp_path: Path) -> None:
    sink = EventSink(tmp_path, [AT])
    record, _ = logged([1])[0]
    sink.write([*logged([0]), (record, None), *logged([2])])
    sink.close()
    found = verify(tmp_path)
    assert (found.num_rows, found.num_refused, found.is_sound) == (2, 1, True)
    write(tmp_path, [3, 6])
    assert verify(tmp_path).problems == [f"{TOPIC}[0] offsets 4 to 5 were not in the log"]


def test_verify_sees_a_lost_file_a_gap_and_a_changed_file(tmp_path: Path) -> None:
    for numbers in (range(5), range(5, 10), range(10, 15)):
        write(tmp_path, numbers)
    files = {file.first: file.path for file in data_files(tmp_path, TOPIC)}
    files[0].unlink()
    (tmp_path / TOPIC / "_commits" / "0-5.json").unlink()
    to_frame([(r, e) for r, e in logged([10, 10, 12]) if e]).write_parquet(files[10])
    text = "\n".join(verify(tmp_path).problems)
    assert "found no such file" in text
    assert "wanted a range from 5, found 10" in text
    assert "wanted 5 rows" in text
    assert "found 1 twice" in text
    assert "wanted the bytes that were written" in text
    quick = "\n".join(verify(tmp_path, deep=False).problems)
    assert "found no such file" in quick
    assert "wanted a range from 5, found 10" in quick
    assert f"bytes in {files[10]}" in quick


def test_leftovers_of_a_killed_flush_do_not_count_and_go(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    date = tmp_path / TOPIC / "date=2024-09-10"
    leftover = date / f"{TOPIC}-0-5-aa.parquet"
    unfinished = date / f".{TOPIC}-0-5-ab.parquet.tmp"
    commit = tmp_path / TOPIC / "_commits" / ".0-5.json.ac.tmp"
    other_partition = date / f"{TOPIC}-1-5-ad.parquet"
    overtaken = date / f"{TOPIC}-0-0-ae.parquet"
    young = date / f"{TOPIC}-0-5-af.parquet"
    files = (leftover, unfinished, commit, other_partition, overtaken, young)
    for path in files:
        path.write_bytes(b"")
        if path is not young:
            os.utime(path, (1.0, 1.0))
    assert scan(tmp_path, [TOPIC]).collect().height == 5
    assert verify(tmp_path).num_leftovers == 4
    sink = EventSink(tmp_path, [AT])
    assert sink.positions() == {AT: 5}
    # What others may still commit, or only a rewriter may remove, stays.
    assert [path.exists() for path in files] == [False, False, False, True, True, True]
    assert scan(tmp_path, [TOPIC]).collect().height == 5
    sink.close()


def test_of_two_sinks_of_a_partition_the_second_is_refused(tmp_path: Path) -> None:
    sleeper = EventSink(tmp_path, [AT])
    sleeper.write(logged(range(5)))
    # Another machine, where our lock is not seen, took the partition over meanwhile.
    (tmp_path / TOPIC / "_commits" / ".lock-0").unlink()
    write(tmp_path, range(7))
    with pytest.raises(CommitRefusedError, match="another process did"):
        sleeper.flush()
    sleeper.abandon()
    again = EventSink(tmp_path, [AT])
    assert again.positions() == {AT: 7}
    again.write(logged(range(5, 9)))
    again.close()
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(9))
    found = verify(tmp_path)
    assert (found.problems, found.num_leftovers) == ([], 0)


def test_a_name_that_a_compaction_freed_is_refused_all_the_same(tmp_path: Path) -> None:
    sleeper = EventSink(tmp_path, [AT])
    sleeper.write(logged(range(10)))
    sleeper.flush()
    sleeper.write(logged(range(10, 40)))
    (tmp_path / TOPIC / "_commits" / ".lock-0").unlink()
    other = EventSink(tmp_path, [AT])
    for end in (20, 30, 50):
        other.write(logged(range(10, end)))
        other.flush()
    compact(tmp_path, TOPIC, config=CompactionConfig(grace_s=0.0))
    assert not (tmp_path / TOPIC / "_commits" / "0-10.json").exists()
    with pytest.raises(CommitRefusedError):
        sleeper.flush()
    sleeper.abandon()
    other.write(logged(range(50, 60)))
    other.close()
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(60))
    assert verify(tmp_path).problems == []


def test_a_lost_first_commit_is_noticed_and_its_rows_are_kept(tmp_path: Path) -> None:
    for numbers in (range(5), range(5, 10), range(10, 15)):
        write(tmp_path, numbers)
    first = tmp_path / TOPIC / "_commits" / "0-0.json"
    content = first.read_bytes()
    first.unlink()
    assert verify(tmp_path).problems == [
        f"{TOPIC}[0] wanted a range up to 4, found that the first begins at 5"
    ]
    compact(tmp_path, TOPIC, config=CompactionConfig(grace_s=0.0))
    first.write_bytes(content)
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(15))
    assert verify(tmp_path).is_sound


def test_a_partition_has_one_sink(tmp_path: Path) -> None:
    first = EventSink(tmp_path, [AT])
    other = EventSink(tmp_path, [TopicPartition(TOPIC, 1)])
    with pytest.raises(ConfigurationError, match="another process"):
        EventSink(tmp_path, [AT])
    first.close()
    other.close()
    EventSink(tmp_path, [AT]).close()


def test_a_log_that_begins_anew_is_continued(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    sink = EventSink(tmp_path, [AT])
    sink.begin_anew(AT)
    assert sink.positions() == {AT: 0}
    sink.write(logged(range(3), time_ms=DAY + 100))
    sink.close()
    again = EventSink(tmp_path, [AT])
    assert again.positions() == {AT: 3}
    again.write(logged(range(5), time_ms=DAY + 100))
    again.close()
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(10))
    assert verify(tmp_path).is_sound


def test_a_full_disk_shows_nothing_partial_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = EventSink(tmp_path, [AT])
    sink.write(logged([0, 1]) + logged([2], time_ms=DAY + DAY_MS))
    calls = [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > fails_after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for fails_after in range(9):
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(durable_files.os, "fsync", full)
            try:
                sink.flush()
            except ConfigurationError as error:
                assert "No space left on device; free space" in str(error)
            else:
                break
        assert list(data_files(tmp_path, TOPIC)) == []
        assert scan(tmp_path, [TOPIC]).collect().height == 0
        sink.write(logged([3 + fails_after]))
    else:
        pytest.fail("never succeeded")
    assert fails_after > 3
    sink.close()
    assert sorted(scan(tmp_path, [TOPIC]).collect()["offset"]) == list(range(3 + fails_after))
    assert verify(tmp_path).is_sound


def test_killed_at_any_moment_no_row_is_lost_or_twice(tmp_path: Path) -> None:
    num_records, rng = 1200, random.Random(7)
    steps = [rng.randrange(8, 60) for _ in range(7)]
    waits_s = [rng.uniform(0.0, 0.1) for _ in range(4)]
    num_leftovers = 0
    for step, wait_s in [*((s, None) for s in steps), *((0, w) for w in waits_s), (0, None)]:
        said, say = children.context.Pipe(duplex=False)
        worker = children.context.Process(
            target=sink_worker.read_in, args=(tmp_path, num_records, step, step, say)
        )
        worker.start()
        assert said.recv() == "begun"
        if wait_s is not None:
            time.sleep(wait_s)
            worker.kill()
        ended = children.ended(worker)
        assert ended in ((-9, 0) if wait_s is not None else (-9,) if step else (0,))
        found = verify(tmp_path)
        assert found.problems == []
        num_leftovers += found.num_leftovers
    assert num_leftovers > 0  # some were killed between the files of a flush
    frame = scan(tmp_path, [TOPIC]).collect()
    wanted = {
        (partition, n)
        for partition in sink_worker.PARTITIONS
        for n in range(num_records)
        if sink_worker.record_at(partition, n)[1] is not None
    }
    assert set(frame.select("partition", "offset").rows()) == wanted
    assert frame.height == len(wanted)
    compact(tmp_path, TOPIC, config=CompactionConfig(grace_s=0.0))
    found = verify(tmp_path)
    assert (found.problems, found.num_leftovers, found.num_rows) == ([], 0, len(wanted))
