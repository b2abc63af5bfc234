"""Expectations judged over all entities of an event log, and the command that does it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from recsys.clock import DAY_MS, HOUR_MS
from recsys.errors import ConfigurationError
from recsys.events.event_columns import to_frame
from recsys.events.log import TopicPartition
from recsys.events.sink import EventSink
from recsys.features.current_plan import default_repository, definitions_hash
from recsys.features.hashes import MemoryHashes
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import PLAN_FILE, Plan
from recsys.features.quality import check_cli
from recsys.features.quality.check import Finding, check
from recsys.features.quality.expectations import Expectation
from recsys.features.quality.snapshot import values_at
from recsys.features.stream import FeatureStream
from tests.features.worlds import TOPICS, in_log, random_events, small_plan, vocabulary

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
END = T0 + DAY_MS


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an event log of the small world."""
    folder = tmp_path_factory.mktemp("log")
    write_log(folder)
    return folder


def write_log(folder: Path) -> None:
    log = world()
    partitions = sorted({TopicPartition(r.topic, r.partition) for r, _ in log})
    sink = EventSink(folder, partitions)
    sink.write(log)
    sink.flush()
    sink.close()


def world() -> list:  # type: ignore[type-arg]
    rng = np.random.default_rng(5)
    log = in_log(random_events(rng, start_ms=T0, span_ms=DAY_MS, num_events=200))
    return [(record._replace(timestamp_ms=event.event_time_ms), event) for record, event in log]


def expecting(*expectations: Expectation) -> Plan:
    return msgspec.structs.replace(small_plan(), expectations=expectations)


def judged(log_dir: Path, *expectations: Expectation, at: int = END) -> list[Finding]:
    plan = expecting(*expectations)
    return check(plan, values_at(log_dir, plan, at), at)


def test_the_snapshot_is_what_the_online_store_gives(log_dir: Path) -> None:
    plan = small_plan()
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(world())[0])
    reader = MemoryOnlineReader(plan, hashes)
    views = {v.view.name: v for v in values_at(log_dir, plan, END)}
    users = views["user_activity"].entities["user_id"].to_list()
    online = reader.read_users(users, vocabulary=vocabulary(), now_ms=END)
    for f, name in enumerate(plan.user_activity_names):
        np.testing.assert_array_equal(
            views["user_activity"].values[name].to_numpy(), online.activity[:, f]
        )
    items = views["item_activity"].entities["item_id"].to_list()
    activity = reader.read_items(items, now_ms=END).activity
    for f, name in enumerate(plan.item_activity_names):
        np.testing.assert_array_equal(
            views["item_activity"].values[name].to_numpy(), activity[:, f]
        )
    for user_id in users:
        records = reader.read_profile(user_id, vocabulary=vocabulary(), now_ms=END)
        n = users.index(user_id)
        history = views["user_history"]
        assert history.values["item_ids"][n].to_list() == records["user_history"].values["item_ids"]
        assert records["user_activity"].event_time_ms == views["user_activity"].newest_ms[n]
        pairs = views["user_category_activity"]
        for key, record in records.items():
            if key.startswith("user_category_activity/") and any(record.values.values()):
                (row,) = pairs.entities.with_row_index().filter(
                    pl.col("user_id") == user_id, pl.col("category") == key.partition("/")[2]
                )["index"]
                assert {name: v[row] for name, v in pairs.values.items()} == record.values


def test_each_rule_passes_and_fails_where_it_should(log_dir: Path) -> None:
    def one(**rules: float) -> Finding:
        (finding,) = judged(log_dir, Expectation(view="item_profile", feature="price", **rules))  # type: ignore[arg-type]
        return finding

    # Prices of 12 items: 1.5 k for odd k, null for even; two items lost theirs by moving.
    assert one(min=4.5).passed and one(min=4.5).found == "4.5"
    low = one(min=5)
    assert (low.num_violations, low.first_offender, low.found) == (1, "i3 = 4.5", "4.5")
    assert one(max=16.5).passed and one(max=16).first_offender == "i11 = 16.5"
    share = one(max_null_share=0.5)
    assert (share.passed, share.num_violations, share.found) == (False, 7, "0.5833")
    assert one(max_null_share=0.6).passed
    assert one(max_zero_share=0).passed
    assert one(max_cardinality=5).passed and not one(max_cardinality=4).passed


def test_lists_and_text_are_judged_by_length_and_elements(log_dir: Path) -> None:
    (longest,) = judged(log_dir, Expectation(view="user_history", feature="item_ids", max=3))
    assert longest.num_violations == 5 and longest.first_offender.startswith("u0 = ['i")
    (distinct,) = judged(
        log_dir, Expectation(view="item_profile", feature="category", max_cardinality=3)
    )
    assert distinct.passed and distinct.found == "3"


def test_a_view_that_is_fed_no_more_fails(log_dir: Path) -> None:
    rule = Expectation(view="user_activity", max_age_ms=HOUR_MS)
    assert judged(log_dir, rule)[0].passed
    late = judged(log_dir, rule, at=END + 2 * HOUR_MS)[0]
    assert not late.passed and late.found.startswith("2")


def test_nothing_by_then_is_said(log_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="found none; the stream worker writes them"):
        values_at(log_dir, small_plan(), T0 - DAY_MS)


def test_the_command_names_the_first_offender_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RECSYS_NAMESPACE", "test")
    monkeypatch.setenv("COLUMNS", "200")
    write_log(tmp_path / "event_log")
    plan = expecting(
        Expectation(view="item_profile", feature="price", min=5),
        Expectation(view="item_profile", feature="price", max=100),
    )
    here = definitions_hash(default_repository())
    msgspec.structs.replace(plan, definitions_hash=here).dump(tmp_path / PLAN_FILE)
    moment = "2023-11-15T00:00"
    assert check_cli.main(["--at", moment]) == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "PASS" in shown and "i3 = 4.5" in shown
    assert check_cli.main(["--at", moment, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["num_failed"] == 1 and document["findings"][1]["passed"]
    assert check_cli.main(["--at", "2001-01-01"]) == 2
    assert "found none" in capsys.readouterr().err
    assert check_cli.main(["--at", "yesterday"]) == 2
    assert 'found "yesterday"' in capsys.readouterr().err


def test_frames_without_behaviour_have_profiles_only(tmp_path: Path) -> None:
    log = [(r, e) for r, e in world() if r.topic == TOPICS.items]
    assert len(to_frame(log))
    sink = EventSink(tmp_path, sorted({TopicPartition(r.topic, r.partition) for r, _ in log}))
    sink.write(log)
    sink.flush()
    sink.close()
    views = {v.view.name: len(v) for v in values_at(tmp_path, small_plan(), END)}
    assert views["item_profile"] == 12 and views["user_profile"] == 0
