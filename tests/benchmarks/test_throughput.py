"""The load benchmark: its generator, its search, and the service ours is measured beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.loadtest.greatest_rate import Step
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.untrained_bundle import TOWERS_ONLY, add_untrained_bundle
from benchmarks.peers.one_process.model import BundleModel
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.features import current_plan
from recsys.features.batch import Ragged
from recsys.inference.compute import answer


def _step(rate: float, limit: float) -> Step:
    kept = rate <= limit
    return Step(
        rate=rate, sent=1, answered_per_s=rate, p50_ms=1, p95_ms=1, p99_ms=1, late_p99_ms=0,
        answers={}, given_up=False, generator_cpu_s=0, cpu_s={}, kept=kept,
        refused="" if kept else "slow",
    )  # fmt: skip


@pytest.mark.parametrize("limit", [3.0, 40.0, 777.0])
def test_the_search_ends_within_its_tolerance_below_the_limit(limit: float) -> None:
    steps = find_greatest(
        lambda rate: _step(rate, limit), start=50.0, tolerance=0.05, report=lambda _: None
    )
    best = greatest(steps)
    assert best is not None
    assert limit / 1.06 < best.rate <= limit


def test_a_rate_kept_by_luck_above_a_refused_one_does_not_count() -> None:
    steps = [_step(100, 1000), _step(200, 1), _step(400, 1000)]
    best = greatest(steps)
    assert best is not None
    assert best.rate == 100


def test_the_peer_gives_the_same_list_on_the_same_features(tmp_path: Path) -> None:
    plan = current_plan.ensure(tmp_path / "var", project="peer")
    bundle_dir = tmp_path / "bundles"
    bundle_id = add_untrained_bundle(bundle_dir, plan, num_items=3000, mix=TOWERS_ONLY, seed=3)
    path = bundle_dir / bundle_id
    ours = load_serving_model(path)
    activity = torch.rand(3001, ours.dimensions.num_item_features) * 5
    activity[0] = 0
    ours.items.set_activity(activity, 0)
    inputs = users(ours.dimensions, ours.num_items, 2)
    found = answer(ours, inputs, num_candidates=500)
    peer = BundleModel(path, read_manifest(path))
    vectors = ours.user_vectors(inputs)
    seen = Ragged(inputs["history_index"].numpy().ravel(), np.arange(3) * 50)
    rows = peer.retrieve(vectors, seen, 500)
    ranked = peer.rank(inputs, vectors, rows, activity[rows].numpy())
    np.testing.assert_allclose(ranked.score[:, :20], found["score"].numpy(), atol=1e-5)
    for row, item_index in zip(ranked.row[:, :20], found["item_index"], strict=True):
        # Equal scores may change places.
        assert len(set(row.tolist()) & set(item_index.tolist())) >= 19
