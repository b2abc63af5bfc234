"""Expectations: from tags to rules, and what a rule calls a violation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from recsys.clock import DAY_MS, HOUR_MS
from recsys.errors import FeatureError
from recsys.features import plan as plans
from recsys.features.feast_declarations import compile_plan
from recsys.features.quality.checker import Checker
from recsys.features.quality.expectations import Expectation, of_field, of_view
from recsys.telemetry import FEATURE_VALUES, FEATURE_VIOLATIONS
from tests.features.worlds import small_plan

DECLARATIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
rates = FeatureView(
    name="rates", entities=[user], ttl=timedelta(days=1), tags={"max_age": "6h", "owner": "us"},
    schema=[
        Field(name="share", dtype=Float32, tags={"min": "0", "max": "1", "max_null_share": "0.01"}),
        Field(name="free", dtype=Float32, tags={"team": "growth"}),
    ],
    source=FileSource(name="s", path="s.parquet", timestamp_field="event_timestamp"),
)
"""


def test_tags_of_fields_and_views_are_compiled(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(DECLARATIONS)
    plan = compile_plan(tmp_path, project="p")
    assert plan.expectations == (
        Expectation(view="rates", max_age_ms=6 * HOUR_MS),
        Expectation(view="rates", feature="share", min=0, max=1, max_null_share=0.01),
    )
    plan.dump(tmp_path / "plan.json")
    assert plans.load(tmp_path / "plan.json") == plan


def test_another_expectation_is_no_other_feature() -> None:
    plan = small_plan()
    strict = msgspec.structs.replace(
        plan, expectations=(Expectation(view="user_activity", max_age_ms=DAY_MS),)
    )
    assert strict.schema_hash == plan.schema_hash


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"min": "zero"}, 'wanted min as a number, found "zero"'),
        ({"min": "nan"}, "as a number"),
        ({"min": "2", "max": "1"}, "wanted min <= max"),
        ({"max_null_share": "1.5"}, "in 0 … 1"),
        ({"max_cardinality": "1.5"}, "a whole number"),
        ({"max_nul_share": "0.1"}, "found max_nul_share"),
        ({"max_age": "1d"}, "found max_age"),
    ],
)
def test_a_tag_that_cannot_be_judged_is_refused(tags: dict[str, str], said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        of_field("v", "f", tags)


def test_a_view_has_an_age() -> None:
    assert of_view("v", {"max_age": "1.5h"}) == Expectation(view="v", max_age_ms=90 * 60_000)
    assert of_view("v", {"owner": "us"}) is None
    for text in ("1 day", "0d", "-1h"):
        with pytest.raises(FeatureError, match=r'max_age of view "v": wanted a time'):
            of_view("v", {"max_age": text})


def _counted(rule: str, feature: str) -> float:
    return FEATURE_VIOLATIONS.labels(
        view="user_category_activity", feature=feature, rule=rule
    )._value.get()


def test_the_stream_counts_each_value_that_breaks_a_rule() -> None:
    plan = small_plan()
    view = plan.view("user_category_activity")
    first, second, third, *_ = view.feature_names
    plan = msgspec.structs.replace(
        plan,
        expectations=(
            Expectation(view=view.name, feature=first, min=0.1, max=1, max_null_share=0),
            Expectation(view=view.name, feature=second, max=5),
        ),
    )
    checker = Checker(plan)
    values = np.zeros((5, len(view.features)), dtype=np.float32)
    values[:, 0] = [0.1, 1.0, 1.5, -3, np.nan]
    values[:, 1] = [5, 6, 7, np.nan, -np.inf]
    values[:, 2] = np.nan
    names = [("min", first), ("max", first), ("null", first), ("max", second), ("null", second)]
    before = [_counted(*name) for name in names]
    rows = FEATURE_VALUES.labels(view=view.name)._value.get()
    checker.observe(view, values)
    checker.observe(view, values[:1])
    checker.observe(view, values[:0])
    checker.observe(plan.view("user_activity"), values)
    after = [_counted(*name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 2, 0]
    assert FEATURE_VALUES.labels(view=view.name)._value.get() - rows == 6
    assert _counted("null", third) == 0


def test_a_view_that_is_cut_over_is_judged_by_the_names_of_its_columns() -> None:
    plan = small_plan()
    view = plan.view("user_category_activity")
    second = view.scalar_aggregates[1].name
    rule = Expectation(view=view.name, feature=second, max=5)
    checker = Checker(msgspec.structs.replace(plan, expectations=(rule,)))
    older = msgspec.structs.replace(view, aggregates=view.aggregates[1:])
    values = np.zeros((2, len(older.scalar_aggregates)), dtype=np.float32)
    values[0, 0] = 6
    before = _counted("max", second)
    checker.observe(older, values)
    assert _counted("max", second) - before == 1
