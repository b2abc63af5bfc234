"""Names, tokens, request time, duplicates: a few lines each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.log import Record, TopicPartition
from recsys.events.log_verify import verify
from recsys.events.schema import InteractionEvent, LoggedEvent
from recsys.events.sink import EventSink, SinkConfig
from recsys.features.categories import Timelines
from recsys.features.duplicates import DuplicateWindow
from recsys.features.feast_environment import feast_connection_string
from recsys.features.hashes import ANY_VERSION, VERSION_FIELD, MemoryHashes, Write
from recsys.features.names import identity_hash, token_hash, tokens_of
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.request_time import NEVER_S, REQUEST_TIME_FEATURES, request_time
from recsys.features.runs import Run

MONDAY_MS = 4 * DAY_MS  # 1970-01-05


def test_hashes_are_the_same_for_ever() -> None:
    assert identity_hash("85123A") == -890958622887729376
    assert token_hash("country=France") == identity_hash("country=France") != 0


def test_tokens_of_odd_values() -> None:
    assert tokens_of({"a": float("1e300"), "b": 2**60, "c": -0.0}) == [
        "a=1e+300", f"b={2**60}", "c=0",
    ]  # fmt: skip
    assert tokens_of({"a": [], "b": "", "c": ["x", "x"]}) == ["b=", "c=x"]
    assert tokens_of({"k": True}) != tokens_of({"k": 1})


def test_request_time_goes_round() -> None:
    at = np.array([MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, MONDAY_MS + 7 * DAY_MS])
    last = np.array([MONDAY_MS - 5_000, -1, MONDAY_MS + 8 * DAY_MS])
    values = dict(zip(REQUEST_TIME_FEATURES, request_time(at, last).T.tolist(), strict=True))
    assert values["hour_sin"] == pytest.approx([0, 1, 0], abs=1e-6)
    assert values["hour_cos"] == pytest.approx([1, 0, 1], abs=1e-6)
    assert values["weekday_sin"] == pytest.approx([0, math.sin(math.pi / 14), 0], abs=1e-6)
    assert values["seconds_since_last_interaction"] == [5.0, np.float32(NEVER_S), 0.0]


def test_a_duplicate_is_one_within_the_horizon() -> None:
    window = DuplicateWindow(horizon=3)
    seen = [window.seen_before(event_id, n) for n, event_id in enumerate("abacda")]
    assert seen == [False, False, True, False, False, True]
    assert not window.seen_before("b", 6), "five records ago"
    assert not window.seen_before("a", 100)


def test_an_item_is_in_the_category_known_for_its_time() -> None:
    # (effective, known): item 0 moved from tea to mugs at 20, which came to be known at 50.
    said = np.array([(0, 10, 10), (0, 15, 60), (0, 20, 50), (2, 5, 5)])
    timelines = Timelines(said[:, 0], said[:, 1], said[:, 2], 3)
    questions = [  # item, time, received: entry that counts
        (0, 5, 5, -1), (0, 10, 10, -1), (0, 10, 11, 0), (0, 5, 40, 0), (0, 30, 50, 0),
        (0, 30, 51, 2), (0, 17, 60, 0), (0, 17, 61, 1), (0, 19, 99, 1), (0, 99, 99, 2),
        (0, 12, 51, 0), (1, 9, 99, -1), (2, 4, 6, 3), (2, 4, 5, -1),
    ]  # fmt: skip
    item, time, known, wanted = np.array(questions).T
    assert timelines.at(item, time, known).tolist() == wanted.tolist()
    none = np.empty(0, dtype=np.int64)
    assert Timelines(none, none, none, 3).at(item, time, known).tolist() == [-1] * len(item)


@pytest.mark.parametrize(
    ("url", "spelt"),
    [
        ("redis://127.0.0.1:16379/3", "127.0.0.1:16379,db=3"),
        ("redis://:pw@h", "h:6379,password=pw"),
        ("rediss://app:p%40ss@cache:6380", "cache:6380,username=app,password=p@ss,ssl=true"),
    ],
)
def test_feast_spells_a_redis_address_differently(url: str, spelt: str) -> None:
    assert feast_connection_string(url) == spelt


def test_a_write_counts_only_on_what_it_was_made_from() -> None:
    hashes = MemoryHashes()
    assert hashes.write([Write(b"a", {b"x": b"1"}, 0), Write(b"b", {b"x": b"1"}, 3)]) == [b"b"]
    assert hashes.content == {b"a": {b"x": b"1", VERSION_FIELD: b"1"}}
    assert hashes.write([Write(b"a", {b"y": b"2"}, 0)]) == [b"a"]
    assert hashes.write([Write(b"a", {b"y": b"2"}, 1), Write(b"b", {}, ANY_VERSION)]) == []
    assert hashes.content[b"a"] == {b"x": b"1", b"y": b"2", VERSION_FIELD: b"2"}
    assert hashes.write([Write(b"a", {}, 1, remove=True)]) == [b"a"]
    assert hashes.write([Write(b"a", {}, 2, remove=True)]) == []
    assert hashes.content == {b"b": {VERSION_FIELD: b"1"}}


def test_of_several_full_sinks_one_is_written_at_a_time(tmp_path: Path) -> None:
    sinks: PartitionSinks[LoggedEvent] = PartitionSinks(
        lambda at: EventSink(tmp_path, [at], config=SinkConfig(max_rows=2))
    )
    event = InteractionEvent(
        event_id="e", event_time_ms=DAY_MS, user_id="u", item_id="i", type="click"
    )
    partitions = [TopicPartition("t.behaviour", n) for n in range(3)]
    sinks.take(partitions)
    runs = [
        Run(at, [Record(*at, n, b"u", b"", DAY_MS) for n in range(2)], [event, event])
        for at in partitions
    ]
    for wanted in (2, 4, 6, 6):
        sinks.write(runs if wanted == 2 else [])
        assert verify(tmp_path).num_rows == wanted
    sinks.close()
