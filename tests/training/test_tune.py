"""A search: what it may change and what it never reads. `make verify-tune` runs one on Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import ConfigurationError
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.recipes import debug, demo
from training.search_space import SPACE, check_space, read_space, values_of, with_values
from training.source import Source
from training.trial import without_test

DAY_MS = 86_400_000


def source() -> Source:
    return Source(
        log=made_up_log(), plan=small_plan(), dataset="made_up", objectives=OBJECTIVES,
        views=("repeats_allowed",), k=5, relevant_type="purchase",
        test_from_ms=DEBUG_END_MS - 4 * DAY_MS,
    )  # fmt: skip


def test_the_space_names_fields_that_recipes_have() -> None:
    check_space(SPACE, demo(), where="here")
    found = with_values(demo(), {"towers.batch_visits": 64, "seed": 3}, where="here")
    assert found == replace(demo(), seed=3, towers=replace(demo().towers, batch_visits=64))
    assert values_of(found, {"towers.batch_visits": SPACE["towers.batch_visits"]}) == {
        "towers.batch_visits": 64
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["towers.learnig_rate"]\nuniform = [1, 2]', r'did you mean "towers\.learning_rate"'),
        ('["towers.learning_rate"]\nnormal = [1, 2]', "wanted one of uniform, log_uniform"),
        ('["towers.learning_rate"]\nuniform = [1]', "least, greatest"),
        ('["towers.learning_rate"]\nuniform = [2, 1]', "wanted least < greatest"),
        ('["towers.softmax"]\nchoice = ["full", "none"]', "found 'none'"),
        ("", "at least one field"),
    ],
)
def test_a_bad_space_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_space(path, demo())


def test_a_trial_reads_nothing_of_the_test() -> None:
    whole = source()
    cut = without_test(whole, debug())
    assert whole.test_from_ms is not None and cut.test_from_ms is not None
    assert int(cut.log["event_time_ms"].max()) < whole.test_from_ms  # type: ignore[arg-type]
    kept = whole.log.filter(pl.col("event_time_ms") < whole.test_from_ms)
    assert cut.log.equals(kept)
    # As long a time before the test is what trials are judged on.
    length = int(whole.log["event_time_ms"].max()) - whole.test_from_ms  # type: ignore[arg-type]
    assert cut.test_from_ms == whole.test_from_ms - length
