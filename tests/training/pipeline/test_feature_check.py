"""Healthy data pass the check of features; a window that has stopped and lost prices do not."""

from __future__ import annotations

import msgspec
import polars as pl
import pytest

from recsys.clock import DAY_MS
from recsys.errors import InputError
from recsys.evaluation.report_features import features_section
from recsys.features.quality.expectations import Expectation
from recsys.features.view import Feature, View
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import DEBUG_END_MS, made_up_log
from training.pipeline.definition import FeatureBounds
from training.pipeline.feature_check import Learned, check_features, said

SPLIT_MS = DEBUG_END_MS - 10 * DAY_MS
LEARNED = Learned(bundle_id="b" * 16, from_ms=DEBUG_END_MS - 30 * DAY_MS, until_ms=SPLIT_MS)
BOUNDS = FeatureBounds()


def plan(*expectations: Expectation):
    profile = View(
        name="item_profile", join_keys=("item_id",), ttl_ms=0,
        features=(Feature(name="price", type="float64", field=20),),
    )  # fmt: skip
    base = small_plan()
    views = (*(v for v in base.views if v.name != "item_profile"), profile)
    return msgspec.structs.replace(base, views=views, expectations=expectations)


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    frame = made_up_log(num_users=120, num_items=60)
    return frame.with_columns(
        topic=pl.lit("t"), partition=pl.lit(0), offset=pl.int_range(pl.len()),
        ingest_time_ms=pl.col("event_time_ms"),
    )  # fmt: skip


def late(log: pl.DataFrame) -> pl.Expr:
    return (pl.col("kind") == "interaction") & (pl.col("event_time_ms") >= SPLIT_MS)


def test_healthy_data_pass_and_each_feature_is_compared(log) -> None:
    table = check_features(log, plan(), BOUNDS, LEARNED)
    assert table.note == "" and min(table.num_before, table.num_since) >= BOUNDS.min_compared
    found = {(row.view, row.feature): row for row in table.rows}
    assert {view for view, _ in found} >= {"user_activity", "item_activity", "item_profile"}
    assert found["item_profile", "price"].drift == 0.0
    assert all(row.drift is None or row.drift < 0.3 for row in table.rows)
    # Ten days were there before the reference: a window of thirty was still filling.
    assert ("user_activity", "interactions_7d") in found
    assert ("user_activity", "interactions_30d") not in found
    assert table.rows == sorted(table.rows, key=lambda row: -(row.drift or 0))
    assert said(table).startswith("0 of 0 rules hold; ")
    page = features_section(table)
    assert "item_activity:interactions_7d" in page and features_section(None) == ""


def test_without_another_bundle_or_with_little_since_nothing_is_compared(log) -> None:
    alone = check_features(log, plan(), BOUNDS, None)
    assert alone.against is None and "nothing to compare" in features_section(alone)
    learned = Learned(bundle_id="b", from_ms=0, until_ms=DEBUG_END_MS - DAY_MS // 4)
    table = check_features(log, plan(), BOUNDS, learned)
    assert "wanted 200 of each" in table.note and table.rows == []


def test_a_feature_whose_events_no_longer_come_under_the_user_s_name_is_refused(log) -> None:
    """A sender that makes up a new user for each event: every count of a user is 0."""
    anonymous = log.with_columns(
        user_id=pl.when(late(log)).then("new-" + pl.col("event_id")).otherwise(pl.col("user_id"))
    )
    with pytest.raises(InputError, match=r"user_activity:interactions_7d has another distribution"):
        check_features(anonymous, plan(), BOUNDS, LEARNED)
    only_told = BOUNDS.model_copy(update={"max_drift": None})
    table = check_features(anonymous, plan(), only_told, LEARNED)
    assert table.rows[0].view == "user_activity" and (table.rows[0].drift or 0) > 0.5


def test_values_that_are_there_no_more_are_refused(log) -> None:
    again = log.filter(pl.col("kind") == "item").with_columns(
        event_id="again-" + pl.col("event_id"), event_time_ms=pl.lit(DEBUG_END_MS - DAY_MS),
        ingest_time_ms=pl.lit(DEBUG_END_MS - DAY_MS), price=pl.lit(None, dtype=pl.Float64),
        offset=pl.col("offset") + len(log),
    )  # fmt: skip
    lost = pl.concat([log, again.head(40)]).sort("event_time_ms", maintain_order=True)
    bounds = BOUNDS.model_copy(update={"max_drift": None})
    with pytest.raises(InputError, match=r"item_profile:price has no value for 67%, 0% when"):
        check_features(lost, plan(), bounds, LEARNED)


def test_a_declared_rule_that_does_not_hold_is_refused_or_only_told(log) -> None:
    rule = Expectation(view="item_profile", feature="price", max=5.0)
    with pytest.raises(InputError, match=r"item_profile:price max: wanted <= 5, found"):
        check_features(log, plan(rule), BOUNDS, None)
    told = BOUNDS.model_copy(update={"expectations": "report"})
    table = check_features(log, plan(rule), told, None)
    assert table.num_rules == 1 and "item_profile:price max" in table.broken[0]
    assert "item_profile:price max" in features_section(table)
