"""A smaller bundle is judged beside its original and taken in only when it loses little enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.models.config import Precision
from tests.training.test_report import QUIET, source
from training.bundle_run import make_bundle
from training.compression.loss import Bound, losses
from training.compression.run import Compressed, compress
from training.debug_bundle import DEBUG_END_MS, made_up_log
from training.loop import NoCheckpoints, World
from training.recipes import debug
from training.report.judge import judge_bundle

INT8 = Precision(item_vectors="int8", towers="int8", ranker="int8")


@pytest.fixture(scope="module")
def log():
    return made_up_log(num_users=150)


@pytest.fixture(scope="module")
def original(log, tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleStore, Manifest]:
    folder = tmp_path_factory.mktemp("store")
    made = make_bundle(
        source(log), debug(), folder, world=World(), checkpoints=NoCheckpoints(),
        progress=QUIET, now_ms=DEBUG_END_MS,
    )  # fmt: skip
    return BundleStore(folder), made.manifest


def made(original, log, bound: Bound, precision: Precision = INT8) -> Compressed:
    store, manifest = original
    test = source(log, test_from_ms=manifest.lineage.data_until_ms)
    return compress(store, manifest, precision, bound, test, now_ms=1, progress=QUIET)


def test_within_the_bounds_it_joins_the_store_and_beyond_them_it_does_not(original, log) -> None:
    store, manifest = original
    refused = made(original, log, Bound(max_loss=-1.0))
    assert not refused.is_allowed
    assert [m.bundle_id for m in store.list()] == [manifest.bundle_id]
    taken = made(original, log, Bound(max_loss=0.5, max_calibration_loss=0.5))
    assert taken.is_allowed
    assert {m.bundle_id for m in store.list()} == {manifest.bundle_id, taken.manifest.bundle_id}
    found = read_manifest(store.path(taken.manifest.bundle_id))
    assert (found.precision, found.compressed_from) == (INT8, manifest.bundle_id)
    assert found.metrics["compression"] == [one.as_json() for one in taken.losses]
    assert taken.weight_bytes["compressed"] < taken.weight_bytes["original"]
    assert all(value > 0 for value in taken.request_us.values())
    assert not list(store.bundle_dir.glob(".draft*"))
    figures = {one.what for one in taken.losses}
    assert {"new_items_only ndcg", "repeats_allowed recall"} <= figures
    assert any(what.startswith("calibration error of") for what in figures)


def test_a_loss_is_that_of_the_same_users_and_its_worse_end_counts(original, log) -> None:
    store, manifest = original
    test = source(log, test_from_ms=manifest.lineage.data_until_ms)
    judged = judge_bundle(store.path(manifest.bundle_id), test, progress=QUIET).judged
    assert judged is not None
    same = losses(judged, judged, Bound(max_loss=0.0, max_calibration_loss=0.0))
    assert all(one.loss == one.worst == 0.0 and one.is_allowed for one in same)
    emptied = {
        view: {name: np.zeros_like(ranked) for name, ranked in lists.items()}
        for view, lists in judged.lists.items()
    }
    gone = losses(judged, replace(judged, lists=emptied), Bound(max_loss=0.5))
    of_lists = [one for one in gone if "calibration" not in one.what]
    assert of_lists and all(one.loss == pytest.approx(1.0) for one in of_lists)
    assert all(one.worst >= one.loss and not one.is_allowed for one in of_lists)


def test_a_killed_run_leaves_nothing_that_the_next_minds(original, log, tmp_path: Path) -> None:
    store, manifest = original
    left = store.bundle_dir / f".draft-compressed-{manifest.bundle_id}"
    left.mkdir()
    (left / "half").write_text("of a file")
    found = made(original, log, Bound(max_loss=0.5, max_calibration_loss=0.5))
    assert found.is_allowed and "half" not in found.manifest.files
