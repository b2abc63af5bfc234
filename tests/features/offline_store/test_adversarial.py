"""The labels of ``adversarial`` in every zone: ours, Feast's DuckDB store, a child in New York."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.features.offline_store.adversarial import EXPECTED, KNOWN, LABELS, VARIANTS, answers
from tests.features.offline_store.repositories import OURS

# Feast warns about names of its own arguments; DuckDB's adapter about its own versions.
pytestmark = pytest.mark.filterwarnings("ignore")

GIVEN = [[user, item, moment.isoformat()] for user, item, moment in LABELS]


def check(found: list[Any], *, ordered: bool) -> None:
    found = json.loads(json.dumps(found))
    assert len(found) == len(VARIANTS)
    for variant, labels, values in found:
        expected = json.loads(json.dumps(KNOWN if variant[3] else EXPECTED))
        have = list(zip(labels, values, strict=True))
        want = list(zip(GIVEN, expected, strict=True))
        if not ordered:
            have, want = sorted(have, key=repr), sorted(want, key=repr)
        assert have == want, variant


def test_every_label_in_every_zone_has_the_value_found_by_hand(tmp_path: Path) -> None:
    check(answers(tmp_path, OURS), ordered=True)


def test_feasts_duckdb_store_says_the_same(tmp_path: Path) -> None:
    check(answers(tmp_path, "duckdb"), ordered=False)


def test_a_machine_in_new_york_says_the_same(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tests.features.offline_store.adversarial", str(tmp_path), OURS],
        env={**os.environ, "TZ": "America/New_York", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    check(json.loads(said.stdout), ordered=True)
