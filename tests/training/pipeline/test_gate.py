"""Each bound refuses what is beyond it, and says what was wanted and what was found."""

from __future__ import annotations

from typing import Any

import pytest

from training.pipeline.definition import GateBounds
from training.pipeline.gate import Paired, as_json, from_json, judge, passed, refusal


def metrics(**served: float) -> dict[str, Any]:
    return {
        "k": 20,
        "views": {
            "new": {
                "served": {"recall@20": 0.2, "ndcg@20": 0.3} | served,
                "popular": {"recall@20": 0.1, "ndcg@20": 0.1},
            }
        },
        "probabilities": {
            "window_days": 30,
            "purchase": {"expected_calibration_error": 0.015, "auc": 0.8},
        },
    }


def paired(low: float, difference: float = 0.0) -> list[Paired]:
    return [
        Paired(
            view="new", metric="recall@20", champion=0.2, difference=difference, low=low,
            high=difference + 0.05, num_users=100,
        )
    ]  # fmt: skip


def test_a_good_bundle_passes_everything_there_is() -> None:
    bounds = GateBounds(floors={"new.recall@20": 0.2})
    checks = judge(metrics(), bounds, paired(-0.009))
    assert passed(checks) and len(checks) == 1 + 2 + 1 + 1
    assert from_json(as_json(checks)) == checks


@pytest.mark.parametrize(
    ("bounds", "low", "found", "said"),
    [
        ({"floors": {"new.recall@20": 0.21}}, 0.0, {}, "floor new.recall@20: wanted 0.2100"),
        ({"floors": {"old.recall@20": 0.1}}, 0.0, {}, "no such figure (found new.recall@20"),
        ({}, 0.0, {"ndcg@20": 0.09}, "popular, new ndcg@20: wanted 0.1000 or more, found 0.0900"),
        ({"baselines": ("ease",)}, 0.0, {}, "no such recommender (found served, popular)"),
        # 5 % of the champion's .2 is .01: the interval's lower end decides, not the mean.
        ({}, -0.0101, {}, "champion, new recall@20: wanted difference surely above -0.0100"),
        ({"max_calibration_error": 0.01}, 0.0, {}, "calibration error of purchase"),
    ],
)
def test_what_is_beyond_a_bound_is_refused_with_both_figures(bounds, low, found, said) -> None:
    checks = judge(metrics(**found), GateBounds(**bounds), paired(low, difference=0.03))
    assert not passed(checks)
    assert said in refusal(checks)


def test_a_bundle_that_nobody_could_judge_does_not_pass() -> None:
    nothing = {"views": {}, "note": "no known user in the test period"}
    checks = judge(nothing, GateBounds(), None)
    assert not passed(checks) and "no known user" in refusal(checks)
    blank = metrics()
    blank["views"]["new"]["served"] = {"recall@20": float("nan"), "ndcg@20": float("nan")}
    assert not passed(judge(blank, GateBounds(), None))
