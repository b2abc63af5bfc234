"""Compaction, retention and erasure of the event log, killed and raced."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS
from recsys.errors import ConfigurationError
from recsys.events.codec import encode
from recsys.events.event_columns import SCHEMA, to_frame
from recsys.events.event_log import scan
from recsys.events.log import Record, TopicPartition
from recsys.events.log_catalogue import catalogue
from recsys.events.log_cli import main
from recsys.events.log_compaction import CompactionConfig, compact
from recsys.events.log_erasure import erase_user
from recsys.events.log_files import commits, data_files, part_path
from recsys.events.log_retention import expire
from recsys.events.log_rewrite import rewriting
from recsys.events.log_verify import verify
from recsys.events.schema import Event, ForgetEvent, LoggedEvent
from recsys.events.sink import EventSink
from tests import children
from tests.events.samples import DAY, click
from tests.events.sink_worker import TOPIC, record_at
from tests.events.upkeep_worker import keep_up

AT = TopicPartition(TOPIC, 0)
AT_ONCE = CompactionConfig(grace_s=0.0)


def rows_of(numbers: Iterable[int], partition: int = 0) -> list[tuple[Record, Event | None]]:
    return [record_at(partition, n) for n in numbers]


def fill(folder: Path, num_flushes: int, size: int = 20, partition: int = 0) -> None:
    sink = EventSink(folder, [TopicPartition(TOPIC, partition)])
    for flush in range(num_flushes):
        sink.write(rows_of(range(flush * size, (flush + 1) * size), partition))
        sink.flush()
    sink.close()


def content(folder: Path) -> pl.DataFrame:
    return scan(folder, [TOPIC]).collect().sort("partition", "offset")


def test_compaction_keeps_every_row_in_fewer_files(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    fill(tmp_path, 3, partition=1)
    before = content(tmp_path)
    done = compact(tmp_path, TOPIC, config=AT_ONCE)
    assert (done.num_commits_before, done.num_commits) == (15, 2)
    assert done.num_files < done.num_files_before
    assert content(tmp_path).equals(before)
    found = verify(tmp_path)
    assert (found.problems, found.num_leftovers) == ([], 0)
    again = compact(tmp_path, TOPIC, config=AT_ONCE)
    assert (again.num_files, again.num_swept) == (done.num_files, 0)


def test_a_reader_that_began_before_a_compaction_reads_on(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    began = scan(tmp_path, [TOPIC])
    before = content(tmp_path)
    compact(tmp_path, TOPIC)
    assert began.collect().sort("partition", "offset").equals(before)
    assert verify(tmp_path).num_leftovers > 0
    compact(tmp_path, TOPIC, config=AT_ONCE)
    assert verify(tmp_path).num_leftovers == 0
    assert content(tmp_path).equals(before)


def test_a_sink_goes_on_while_its_log_is_compacted(tmp_path: Path) -> None:
    sink = EventSink(tmp_path, [AT])
    for flush in range(6):
        sink.write(rows_of(range(flush * 10, flush * 10 + 10)))
        sink.flush()
        compact(tmp_path, TOPIC, config=AT_ONCE)
    sink.close()
    again = EventSink(tmp_path, [AT])
    assert again.positions() == {AT: 60}
    again.close()
    found = verify(tmp_path)
    assert (found.problems, found.num_rows + found.num_refused) == ([], 60)


def test_one_rewriter_at_a_time(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with rewriting(tmp_path, TOPIC), pytest.raises(ConfigurationError, match="another process"):
        compact(tmp_path, TOPIC)


def test_a_damaged_file_is_not_built_upon(tmp_path: Path) -> None:
    fill(tmp_path, 2, size=40)
    victim = next(iter(data_files(tmp_path, TOPIC))).path
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match="recsys log verify"):
        compact(tmp_path, TOPIC)
    assert len(commits(tmp_path, TOPIC)) == 2


def test_expired_dates_are_gone_and_accounted_for(tmp_path: Path) -> None:
    fill(tmp_path, 3, size=60)
    before = content(tmp_path)
    limit_ms = 1_726_000_000_000 // DAY_MS * DAY_MS + 2 * DAY_MS
    dry = expire(tmp_path, TOPIC, before="2024-09-12", dry_run=True)
    assert content(tmp_path).equals(before)
    gone = expire(tmp_path, TOPIC, before="2024-09-12", grace_s=0.0)
    assert gone == dry
    assert content(tmp_path).equals(before.filter(pl.col("event_time_ms") >= limit_ms))
    found = verify(tmp_path)
    assert (found.problems, found.num_leftovers) == ([], 0)
    assert found.num_expired == gone.num_rows == len(before) - found.num_rows
    assert not any(file.date < "2024-09-12" for file in data_files(tmp_path, TOPIC))


def test_an_erased_user_is_nowhere_but_in_their_tombstone(tmp_path: Path) -> None:
    fill(tmp_path, 4, partition=0)
    fill(tmp_path, 4, partition=1)
    compact(tmp_path, TOPIC)  # whose replaced files still hold the user
    forget: LoggedEvent = ForgetEvent(event_id="f", event_time_ms=DAY, user_id="u1")
    sink = EventSink(tmp_path, [TopicPartition(TOPIC, 1)])
    sink.write([(Record(TOPIC, 1, 80, b"u1", encode(forget), DAY), forget)])
    sink.close()
    before = content(tmp_path)
    erased = erase_user(tmp_path, TOPIC, "u1")
    mine = (pl.col("user_id") == "u1") & (pl.col("kind") != "forget")
    assert content(tmp_path).equals(before.filter(~mine))
    assert erased.num_rows == before.filter(mine).height > 0
    for path in tmp_path.rglob("*.parquet"):
        left = pl.read_parquet(path, hive_partitioning=False)
        assert set(left.filter(pl.col("user_id") == "u1")["kind"]) <= {"forget"}
    found = verify(tmp_path)
    assert (found.problems, found.num_erased) == ([], erased.num_rows)
    assert erase_user(tmp_path, TOPIC, "u1").num_rewritten == 0


def end_of_upkeep(folder: Path, deed: str, step: int) -> int:
    child = children.context.Process(target=keep_up, args=(folder, deed, step))
    child.start()
    return children.ended(child)


@pytest.mark.parametrize("deed", ["compact", "expire", "erase"])
def test_killed_at_any_step_nothing_is_lost_or_twice(tmp_path: Path, deed: str) -> None:
    whole = tmp_path / "whole"
    fill(whole, 5)
    fill(whole, 5, partition=1)
    before = content(whole)
    done = tmp_path / "done"
    shutil.copytree(whole, done)
    assert end_of_upkeep(done, deed, 0) == 0
    after = content(done)
    rng = random.Random(deed)
    for step in sorted(rng.sample(range(1, 40), 4)):
        folder = tmp_path / str(step)
        shutil.copytree(whole, folder)
        assert end_of_upkeep(folder, deed, step) in (-9, 0)
        assert verify(folder).problems == []
        if deed == "compact":
            assert content(folder).equals(before)
        else:  # some commits were rewritten, others not
            assert len(after) <= len(content(folder)) <= len(before)
        assert end_of_upkeep(folder, deed, 0) == 0
        assert content(folder).equals(after)
        assert verify(folder).problems == []


@given(st.lists(st.sampled_from(["write", "flush", "crash", "compact", "expire"]), max_size=14))
@settings(max_examples=25)
def test_whatever_happens_the_log_holds_what_was_flushed(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    sink = EventSink(folder, [AT])
    written = flushed = 0
    limit = ""
    for deed in [*deeds, "flush"]:
        if deed == "write":
            sink.write(rows_of(range(written, written + 7)))
            written += 7
        elif deed == "flush":
            sink.flush()
            flushed = written
        elif deed == "crash":
            sink.abandon()
            sink = EventSink(folder, [AT])
            assert sink.positions().get(AT, 0) == flushed
            sink.write(rows_of(range(max(0, flushed - 3), flushed)))
            written = flushed
        elif flushed:
            if deed == "compact":
                compact(folder, TOPIC, config=AT_ONCE)
            else:
                limit = "2024-09-12"
                expire(folder, TOPIC, before=limit, grace_s=0.0)
    sink.close()
    found = verify(folder)
    assert (found.problems, found.num_leftovers) == ([], 0)
    assert found.num_rows + found.num_refused + found.num_expired == flushed
    offsets = content(folder)["offset"].to_list()
    assert len(offsets) == len(set(offsets)) == found.num_rows


def test_older_and_newer_files_are_read_with_todays_columns(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    frame = to_frame([(Record(TOPIC, 0, n, b"k", b"", DAY), click(n)) for n in range(3)])
    old, new = frame.drop("policy"), frame.with_columns(mood=pl.lit("new"))
    for file, other in zip(data_files(tmp_path, TOPIC), (old, new), strict=False):
        other.write_parquet(file.path)
    read = scan(tmp_path, [TOPIC]).collect()
    assert dict(read.schema) == SCHEMA
    assert read["policy"].null_count() == len(read)


def test_ls_and_verify_and_upkeep_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    folder = tmp_path / "event_log"
    fill(folder, 4)
    assert main(["ls"]) == 0
    assert TOPIC in capsys.readouterr().out
    assert main(["ls", "--dates", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 6
    assert sum(entry["num_rows"] for entry in entries) == content(folder).height
    (entry,) = catalogue(folder, TOPIC)
    assert (entry.first, entry.last) == (0, 79)
    for arguments in (["verify", "--json"], ["verify", "--quick", "--json"]):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)["sound"] is True
    assert main(["compact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[TOPIC]["num_commits"] == 1
    assert main(["expire", "--before", "2024-09-12", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[TOPIC]["num_rows"] > 0
    ((_, commit),) = commits(folder, TOPIC)
    part_path(folder, TOPIC, commit.parts[-1]).unlink()
    for arguments in (["verify", "--quick"], ["verify"]):
        assert main(arguments) == 1
        assert "found no such file" in " ".join(capsys.readouterr().out.split())
    for arguments, said in (
        (["ls", "--topic", "t.unknown"], "t.unknown"),
        (["expire", "--before", "yesterday", "--force"], "2025-01-01"),
        (["expire", "--older-than", "x", "--force"], "400d"),
        (["expire", "--before", "2024-09-12"], "recsys features apply"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
