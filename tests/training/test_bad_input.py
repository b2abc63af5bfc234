"""What a run refuses before it spends time: each message names what was found and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import save_vocabulary
from recsys.errors import BundleError, ConfigurationError, FeatureError, InputError
from recsys.models.encode import UserEncoding
from tests.bundle.test_bundle import small_plan
from training.bundle_run import judge_draft
from training.checks import check_classes, check_finite, check_vocabulary, check_windows
from training.debug_bundle import OBJECTIVES, made_up_log
from training.prepare import prepare
from training.progress import Progress
from training.recipe_file import read_recipe, write_recipe
from training.recipes import debug, demo
from training.source import Source


def refuse(log: pl.DataFrame, *, plan=None, recipe=None, objectives=OBJECTIVES) -> None:
    prepare(
        log, plan or small_plan(), recipe or debug(), objectives, test_from_ms=None,
        progress=Progress(quiet=True),
    )  # fmt: skip


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_recipe_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = written(
        tmp_path, "r.toml",
        'base = "debug"\nname = "mine"\n[towers]\nepochs = 9\n'
        "[sources]\nquotas = [1, 2, 3, 4, 5]\n",
    )  # fmt: skip
    found, base = read_recipe(path), debug()
    assert found == replace(
        base,
        name="mine",
        towers=replace(base.towers, epochs=9),
        sources=replace(base.sources, quotas=(1, 2, 3, 4, 5)),
    )
    write_recipe(tmp_path / "whole.json", found)
    assert read_recipe(tmp_path / "whole.json") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", 'no field "epoch"'),
        ("[towers]\nepoch = 3", 'no field "towers.epoch"; did you mean "towers.epochs"'),
        ('[towers]\nepochs = "many"', "\"towers.epochs\": .* found 'many'"),
        ('[towers]\nsoftmax = "half"', '"towers.softmax": .*full'),
        ("towers = 3", r"write \[towers\]"),
        ("[towers]\nlearning_rate = nan", 'learning_rate": wanted a number above 0, found nan'),
        ("[towers]\nbatch_visits = 0", "above 0, found 0"),
        ('base = "dmeo"', 'did you mean "demo"'),
        ("= 3", "wanted TOML or JSON"),
    ],
)
def test_a_bad_recipe_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_recipe(written(tmp_path, "r.toml", text))


def test_a_recipe_file_that_is_no_table_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="wanted a table"):
        read_recipe(written(tmp_path, "r.json", json.dumps([1])))
    with pytest.raises(ConfigurationError, match="wanted a recipe"):
        read_recipe(tmp_path / "absent.toml")


def test_a_feature_service_that_lacks_a_feature_is_refused() -> None:
    plan = small_plan()
    ranking = tuple(f for f in plan.services["ranking_v1"] if f != "item_activity:interactions_30d")
    short = msgspec.structs.replace(plan, services={**plan.services, "ranking_v1": ranking})
    with pytest.raises(FeatureError, match='"ranking_v1" lacks item_activity:interactions_30d'):
        refuse(made_up_log(), plan=short)
    none = msgspec.structs.replace(plan, services={"ranking_v1": ranking})
    with pytest.raises(FeatureError, match='wanted feature service "retrieval_v1"'):
        refuse(made_up_log(), plan=none)


def test_an_empty_time_window_is_refused() -> None:
    day = 86_400_000
    times = np.array([0, 1, 30 * day])
    zeros = np.zeros(3, dtype=np.int64)
    few = Interactions(
        user_ids=("u",), user=zeros, item=zeros.astype(np.int32) + 1, time_ms=times,
        value=zeros.astype(float), type_code=zeros.astype(np.int16), types=("purchase",),
    )  # fmt: skip
    split = TimeSplit(begin_ms=0, ranker_from_ms=10 * day, test_from_ms=20 * day, end_ms=30 * day)
    with pytest.raises(InputError, match="the ranker's labels come from, 1970-01-11 00:00"):
        check_windows(few, split)
    check_windows(few, replace(split, test_from_ms=31 * day))


def test_a_label_of_one_class_is_refused() -> None:
    log = made_up_log()
    early = log["event_time_ms"].min() + 8 * 86_400_000
    # Bulk purchases only long before the ranker's part: none of its examples is positive.
    value = pl.when(pl.col("event_time_ms") > early).then(1.0).otherwise(pl.col("value"))
    with pytest.raises(InputError, match='"bulk_purchase": wanted positive and negative'):
        refuse(log.with_columns(value.alias("value")))
    with pytest.raises(InputError, match="all are positive"):
        check_classes("click", 12, 12)
    check_classes("click", 11, 12)


def test_features_that_are_no_numbers_are_refused_by_name() -> None:
    encoding = UserEncoding(
        history_length=4, num_tokens=2, user_activity=("clicks", "spent"), num_categories=1,
        user_category_activity=("views",),
    )  # fmt: skip
    dense = torch.zeros(5, len(encoding.dense_names))
    check_finite({"user_dense": dense}, encoding, "visits")
    dense[3, 1] = torch.nan
    with pytest.raises(InputError, match=r"user_dense \(spent\) of 1 of 5 rows .* row 3"):
        check_finite({"user_dense": dense}, encoding, "visits")
    category = torch.zeros(5, 1, 1)
    category[0, 0, 0] = torch.inf
    with pytest.raises(InputError, match=r"user_category \(views\)"):
        check_finite({"user_category": category}, encoding, "visits")


def test_a_price_that_is_no_number_is_refused() -> None:
    log = made_up_log()
    price = pl.when(pl.col("item_id") == "item-3").then(float("inf")).otherwise(pl.col("price"))
    with pytest.raises(InputError, match="infinity in price of 1 of"):
        refuse(log.with_columns(price.alias("price")))


def test_a_vocabulary_of_other_data_is_refused() -> None:
    ours, theirs = Vocabulary(("a", "b"), ("x",)), Vocabulary(("b", "c", "d"), ("x",))
    check_vocabulary(ours, Vocabulary(("a", "b"), ("x",)), "there")
    with pytest.raises(BundleError, match=r"2 items\), found another with 3 .* 1 are .* 'c' for"):
        check_vocabulary(ours, theirs, "there")


def test_a_draft_of_other_data_is_not_judged(tmp_path: Path) -> None:
    source = Source(
        log=made_up_log(), plan=small_plan(), dataset="made_up", objectives=OBJECTIVES,
        views=("repeats_allowed",), k=5, relevant_type="purchase", test_from_ms=None,
    )  # fmt: skip
    quiet = Progress(quiet=True)
    prepared, sources = prepare(
        source.log, source.plan, debug(), OBJECTIVES, test_from_ms=None, progress=quiet
    )
    ours = sources.catalogue.vocabulary
    # The same items in another order: each row would mean another item.
    other = Vocabulary(tuple(reversed(ours.item_ids)), ours.categories)
    save_vocabulary(other, tmp_path / "vocabulary.json")
    with pytest.raises(BundleError, match=r"80 items\), found another with 80 .* 80 are the same"):
        judge_draft(tmp_path, source, prepared, sources, progress=quiet)


def test_numbers_of_a_recipe_in_code_are_looked_at_too() -> None:
    with pytest.raises(ConfigurationError, match=r'"towers\.learning_rate"'):
        refuse(
            made_up_log(), recipe=replace(demo(), towers=replace(demo().towers, learning_rate=0))
        )
