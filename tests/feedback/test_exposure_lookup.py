"""Exposures are found by request: the first of each, within the time, up to where a run stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.clock import DAY_MS
from recsys.events.log_retention import expire
from recsys.feedback import exposure_lookup
from recsys.feedback.exposure import encode_exposure
from recsys.feedback.exposure_lookup import LoggedExposures, tensors_of
from tests.feedback.test_exposure_log import T0_MS, TOPIC, exposure, write

EVER = (0, T0_MS + 1000 * DAY_MS)


def lookup(folder: Path, positions: dict[str, int] | None = None) -> LoggedExposures:
    return LoggedExposures(
        log_dir=folder, topic=TOPIC, bundle_dir=folder / "bundles", positions=positions
    )


def found(exposures: LoggedExposures, names: list[str], between=EVER) -> tuple[list[str], int]:
    rows, num_repeated = exposures.of_requests(names, start_ms=between[0], end_ms=between[1])
    return rows["request_id"].to_list(), num_repeated


def test_the_first_of_each_request_within_the_time(tmp_path: Path) -> None:
    again = exposure(1, now_ms=T0_MS + 5 * DAY_MS, bundle="later")
    write(tmp_path, [encode_exposure(e) for e in (*map(exposure, range(6)), again)])
    exposures = lookup(tmp_path)
    assert found(exposures, ["r4", "r1", "r9", "r1"]) == (["r1", "r4"], 1)
    assert found(exposures, []) == ([], 0)
    rows, _ = exposures.of_requests(["r1"], start_ms=EVER[0], end_ms=EVER[1])
    assert rows["bundle"].to_list() == ["b1"]
    within = (exposure(2).now_ms, exposure(4).now_ms)
    assert found(exposures, [f"r{n}" for n in range(6)], within) == (["r2", "r3"], 0)


def test_a_run_reads_what_there_was_when_it_began(tmp_path: Path) -> None:
    write(tmp_path, [encode_exposure(exposure(n)) for n in range(6)])
    names = [f"r{n}" for n in range(6)]
    assert found(lookup(tmp_path, {f"{TOPIC}:0": 2}), names) == (["r0", "r1"], 0)
    assert found(lookup(tmp_path, {f"{TOPIC}:1": 9, "other:0": 9}), names) == ([], 0)
    assert found(lookup(tmp_path, {}), names) == ([], 0)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_features_are_those_of_the_wanted_rows_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(exposure_lookup, "_CHUNK", chunk)
    write(tmp_path, [encode_exposure(exposure(n % 8)) for n in range(16)])
    rows, num_repeated = lookup(tmp_path).of_requests(
        [f"r{n}" for n in range(8)], start_ms=EVER[0], end_ms=EVER[1]
    )
    assert num_repeated == 8
    wanted = rows[[5, 0, 3, 3]]
    read = lookup(tmp_path).with_features(wanted)
    assert read.drop("features").equals(wanted)
    ages = [tensors_of(features)["age"].item() for features in read["features"]]
    assert ages == [5, 0, 3, 3]
    assert lookup(tmp_path).with_features(rows.head(0))["features"].dtype == pl.Binary


def test_features_that_are_gone_or_damaged_are_none(tmp_path: Path) -> None:
    write(tmp_path, [encode_exposure(exposure(n)) for n in range(3)])
    rows, _ = lookup(tmp_path).of_requests(["r0", "r2"], start_ms=EVER[0], end_ms=EVER[1])
    expire(tmp_path, TOPIC, before="2023-11-15", grace_s=0)
    read = lookup(tmp_path).with_features(rows)
    whole = [tensors_of(features) for features in read["features"]]
    assert whole[0] is None and whole[1] is not None
    data = read["features"][1]
    assert tensors_of(data[:-3]) is None and tensors_of(b"\xc1") is None
    record = exposure(0, features={"age": exposure(0).features["age"]}).features["age"]
    np.testing.assert_array_equal(whole[1]["age"], record.array() + 2)
