"""Exposures become rows of the Parquet log and are the same when they are read again."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from recsys.clock import DAY_MS
from recsys.events import log_cli
from recsys.events.log import Record, TopicPartition
from recsys.events.log_compaction import compact
from recsys.events.log_erasure import erase_user
from recsys.events.log_verify import verify
from recsys.events.sink import LogSink
from recsys.feedback.exposure import Exposure, decode_exposure, encode_exposure
from recsys.feedback.exposure_log import (
    EXPOSURES,
    exposure_of,
    iter_exposures,
    scan_exposures,
)
from recsys.settings import Settings

TOPIC = "shop.exposures"
T0_MS = 1_700_000_000_000


def exposure(n: int, user: str = "ada", **changes: object) -> Exposure:
    one = Exposure(
        request_id=f"r{n}",
        user_id=user,
        route="recommendations",
        now_ms=T0_MS + n * DAY_MS // 2,
        bundle="b1",
        rung="full",
        item_ids=["a", "b"],
        scores=[1.5, None],
        features=Exposure.tensors({"age": np.array([[n]], dtype=np.float32)}),
        features_as_of_ms=T0_MS + n,
        request=msgspec.Raw(b'{"num": 2}'),
    )
    return msgspec.structs.replace(one, **changes)


def records(values: list[bytes]) -> list[Record]:
    return [Record(TOPIC, 0, n, b"k", value, T0_MS + n) for n, value in enumerate(values)]


def write(log_dir: Path, values: list[bytes]) -> None:
    sink = LogSink(log_dir, [TopicPartition(TOPIC, 0)], EXPOSURES)
    for one in records(values):
        sink.write([(one, exposure_of(one))])
        sink.flush()
    sink.close()


def test_exposures_are_read_as_they_were_written(tmp_path: Path) -> None:
    sent = [
        exposure(0),
        exposure(1, rung="popular", features={}, features_as_of_ms=None),
        exposure(2, policy="softmax", propensities=[0.5, 0.25]),
    ]
    write(tmp_path, [encode_exposure(one) for one in sent])
    assert list(iter_exposures(tmp_path, [TOPIC])) == sent
    late = iter_exposures(tmp_path, [TOPIC], start_ms=sent[1].now_ms, end_ms=sent[2].now_ms)
    assert [one.request_id for one in late] == ["r1"]
    again = next(iter_exposures(tmp_path, [TOPIC]))
    assert decode_exposure(encode_exposure(again)) == sent[0]


def test_what_is_no_exposure_is_counted_and_the_log_is_sound(tmp_path: Path) -> None:
    far = encode_exposure(exposure(1, now_ms=10**18))
    write(tmp_path, [b"{}", encode_exposure(exposure(0)), b"\xff", far])
    found = verify(tmp_path, [TOPIC])
    assert (found.num_rows, found.num_refused, found.problems) == (1, 3, [])
    compact(tmp_path, TOPIC)
    assert verify(tmp_path, [TOPIC]).is_sound
    assert len(list(iter_exposures(tmp_path, [TOPIC]))) == 1


def test_a_users_exposures_are_erased(tmp_path: Path) -> None:
    sent = [exposure(n, user) for n, user in enumerate(["ada", "bob", "ada"])]
    write(tmp_path, [encode_exposure(one) for one in sent])
    assert erase_user(tmp_path, TOPIC, "ada").num_rows == 2
    assert scan_exposures(tmp_path, [TOPIC]).select("user_id").collect().to_series().to_list() == [
        "bob"
    ]
    assert not any(b"ada" in path.read_bytes() for path in tmp_path.rglob("*.parquet"))


def test_an_empty_log_has_the_columns() -> None:
    frame = scan_exposures(Path("/nowhere"), [TOPIC]).collect()
    assert frame.schema == pl.Schema(EXPOSURES.schema)
    assert len(frame) == 0


def test_the_log_commands_take_exposures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    write(Settings().event_log_dir, [encode_exposure(exposure(n)) for n in range(3)])
    assert log_cli.main(["verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_rows"], found["num_repeated"]) == (3, 0)
    assert log_cli.main(["ls"]) == 0
    assert TOPIC in capsys.readouterr().out
