"""The compiled plan: loaded without Feast, refused when it does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import FeatureError
from recsys.features import names
from recsys.features import plan as plans
from recsys.features.plan import Plan
from tests.features.worlds import small_plan


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = small_plan()
    plan.dump(tmp_path / "plan.json")
    loaded = plans.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.schema_hash == plan.schema_hash
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_what_is_not_a_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(FeatureError, match="found none; run `recsys features apply`"):
        plans.load(path)
    path.write_text("{}")
    with pytest.raises(FeatureError, match="is not a feature plan"):
        plans.load(path)
    small_plan().dump(path)
    path.write_text(path.read_text().replace('"ttl_ms": 0', '"ttl_ms": 7', 1))
    with pytest.raises(FeatureError, match="compile it again"):
        plans.load(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FeatureError, match='no view "nothing"'):
        small_plan().view("nothing")
    with pytest.raises(FeatureError, match=r'"user_profile" has no feature "x" \(found 1: tokens'):
        small_plan().view(names.USER_PROFILE).feature("x")


def test_serving_and_the_worker_import_neither_feast_nor_pandas_nor_torch() -> None:
    code = (
        "import sys, recsys.features.online, recsys.features.worker, recsys.features.history\n"
        "import serving.stream_worker, serving.backfill\n"
        "heavy = {'feast', 'pandas', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plans_compare_by_content() -> None:
    assert small_plan() == small_plan()
    assert isinstance(small_plan(), Plan)
