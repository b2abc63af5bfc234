"""The card says what the manifest says, and names the segments that are clearly worse."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.manifest import Manifest, read_manifest, verify_files
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import made_up_log, make_debug_bundle
from training.model_card import as_markdown, model_card, weak_segments
from training.source import content_hash


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


def test_a_bundle_holds_its_card_under_its_checksums(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    assert {"model_card.json", "MODEL_CARD.md"} <= manifest.files.keys()
    card = json.loads((bundle / "model_card.json").read_text())
    assert card == json.loads(json.dumps(model_card(manifest)))
    served = card["evaluation"]["views"]["new_items_only"]["served"]
    low, high = served["recall@10_interval"]
    assert low <= served["recall@10"] <= high
    page = (bundle / "MODEL_CARD.md").read_text()
    assert "purchase of at least 12" in page and f"{served['recall@10']:.4f} ({low:.4f} to" in page


def test_only_clearly_weak_segments_are_named(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    rows = {
        "much less, surely": {"ndcg@10": 0.1, "ndcg@10_interval": [0.05, 0.2]},
        "much less, perhaps": {"ndcg@10": 0.1, "ndcg@10_interval": [0.0, 0.6]},
        "a little less": {"ndcg@10": 0.45, "ndcg@10_interval": [0.44, 0.46]},
    }
    metrics = {
        "views": {"new": {"served": {"ndcg@10": 0.5, "ndcg@10_interval": [0.4, 0.6]}}},
        "segments": {"new": {"country": rows}},
    }
    (weak,) = weak_segments(metrics)
    assert weak["segment"] == "country=much less, surely" and weak["all_users"] == 0.5
    changed: Manifest = manifest.model_copy(update={"metrics": metrics})
    assert "country=much less, surely (new): ndcg@10 0.1" in as_markdown(model_card(changed))


def test_the_data_s_hash_goes_by_rows_not_by_how_they_lie_in_memory() -> None:
    log = made_up_log()
    whole = content_hash(log)
    assert content_hash(pl.concat([log[:100], log[100:]], rechunk=False)) == whole
    assert content_hash(log[::-1]) != whole
    assert content_hash(log.with_columns(pl.col("price") + 1)) != whole
