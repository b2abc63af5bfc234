"""A signal that only the future holds is not rewarded, and a pipeline that leaks would be caught.

After the split the log says which items will be taken (their text, their price, whether they are on
offer) and which category each user will take from (a profile token). A pipeline that keeps to its
split gives the same weights and lists as if nothing had been said. The same plants are then shown
to pipelines that each have one guard taken out: every one of them must score higher beyond noise,
or the first test would prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data import catalogue
from recsys.evaluation.bootstrap import paired_difference
from recsys.evaluation.report import user_values
from recsys.features.history import UserHistory
from tests.bundle.test_bundle import small_plan
from training import prepare as preparing
from training.bundle_run import Made, make_bundle
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.evaluate import SERVED
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import debug
from training.source import Source

VIEW, K = "repeats_allowed", 5
TEST_FROM_MS = DEBUG_END_MS - 4 * 86_400_000


def bundle_of(log: pl.DataFrame, folder: Path) -> Made:
    source = Source(
        log=log, plan=small_plan(), dataset="made_up", objectives=OBJECTIVES, views=(VIEW,), k=K,
        relevant_type="purchase", test_from_ms=TEST_FROM_MS,
    )  # fmt: skip
    return make_bundle(
        source, debug(), folder, world=World(), checkpoints=NoCheckpoints(),
        progress=Progress(quiet=True), now_ms=DEBUG_END_MS,
    )  # fmt: skip


def planted(log: pl.DataFrame, at_ms: int) -> pl.DataFrame:
    """Say at ``at_ms``, of items and of users, what will happen from the split on."""
    taken = log.filter((pl.col("kind") == "interaction") & (pl.col("event_time_ms") > TEST_FROM_MS))
    winners = set(taken["item_id"].to_list())
    items = log.filter(pl.col("kind") == "item").with_columns(
        ("plant-" + pl.col("item_id")).alias("event_id"),
        pl.lit(at_ms).alias("event_time_ms"),
        pl.when(pl.col("item_id").is_in(winners))
        .then(pl.lit("winner"))
        .otherwise(pl.lit("loser"))
        .alias("text"),
        pl.when(pl.col("item_id").is_in(winners)).then(1000.0).otherwise(0.5).alias("price"),
        pl.col("item_id").is_in(winners).alias("available"),
    )
    category = dict(log.filter(pl.col("kind") == "item").select("item_id", "category").iter_rows())
    wish = {u: category[i] for u, i in taken.select("user_id", "item_id").iter_rows()}
    users = pl.DataFrame(
        {
            "kind": "user", "event_id": [f"plant-{u}" for u in wish], "event_time_ms": at_ms,
            "user_id": list(wish),
            "attributes": [json.dumps({"will_take": c}) for c in wish.values()],
        }
    )  # fmt: skip
    return pl.concat([log, items, users], how="diagonal")


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return made_up_log()


@pytest.fixture(scope="module")
def honest(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return bundle_of(log, tmp_path_factory.mktemp("honest"))


def recall_of(made: Made) -> np.ndarray:
    """``[B]`` recall of each user of the test, in the same order whatever was planted."""
    judged = made.verdict.judged
    assert judged is not None
    ranked, question = judged.lists[VIEW][SERVED], judged.questions[VIEW]
    return user_values(ranked, question.relevant, k=K)["recall"]


def gain(leaky: Made, honest: Made) -> tuple[float, float]:
    """Lowest and highest plausible gain in recall over the honest run, user by user."""
    found = paired_difference(
        recall_of(leaky), recall_of(honest), rng=np.random.default_rng(1)
    )  # fmt: skip
    return found.low, found.high


def test_what_is_said_after_the_split_earns_nothing(log, honest, tmp_path: Path) -> None:
    told = bundle_of(planted(log, TEST_FROM_MS + 1), tmp_path)
    for name in ("towers", "ranker"):
        file = f"{name}.safetensors"
        assert honest.manifest.files[file] == told.manifest.files[file], file
    assert gain(told, honest) == (0.0, 0.0)
    assert told.verdict.metrics["views"] == honest.verdict.metrics["views"]


def test_items_described_by_their_last_word_would_be_caught(
    log, honest, tmp_path: Path, monkeypatch
) -> None:
    def careless(log: pl.DataFrame, *, described_until_ms: int | None = None):
        del described_until_ms
        return catalogue.build_catalogue(log)

    monkeypatch.setattr(preparing, "build_catalogue", careless)
    leaky = bundle_of(planted(log, TEST_FROM_MS + 1), tmp_path)
    assert gain(leaky, honest)[0] > 0.02


def test_features_of_a_later_moment_would_be_caught(
    log, honest, tmp_path: Path, monkeypatch
) -> None:
    """Each user is asked about as of four days later: her own answers are in her history."""
    features_at = UserHistory.features_at

    def late(self, user_ids, moments_ms):
        return features_at(self, user_ids, moments_ms + (DEBUG_END_MS - TEST_FROM_MS))

    monkeypatch.setattr(UserHistory, "features_at", late)
    leaky = bundle_of(log, tmp_path)
    assert gain(leaky, honest)[0] > 0.05


def test_labels_of_the_test_would_be_caught(log, honest, tmp_path: Path) -> None:
    """What is taken in the test, copied to before the split: training sees its labels."""
    taken = log.filter((pl.col("kind") == "interaction") & (pl.col("event_time_ms") > TEST_FROM_MS))
    copied = taken.with_columns(
        ("copied-" + pl.col("event_id")).alias("event_id"),
        (TEST_FROM_MS - 3_600_000 + pl.int_range(pl.len())).alias("event_time_ms"),
    )
    leaky = bundle_of(pl.concat([log, copied], how="diagonal"), tmp_path)
    assert mean_recall(leaky) - mean_recall(honest) > 0.1


def mean_recall(made: Made) -> float:
    """Mean recall over known users (a copied label makes a new user known)."""
    assert made.verdict.judged is not None
    known = made.verdict.judged.held_out.is_known
    return float(np.nanmean(recall_of(made)[known]))
