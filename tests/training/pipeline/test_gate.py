"""Each bound refuses what is beyond it, and says what was wanted and what was found."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.evaluation.report_document import Against, Comparison, Figure
from training.compression.loss import Loss
from training.pipeline.definition import GateBounds
from training.pipeline.gate import as_json, from_json, judge, passed, refusal

ALIKE = Figure(mean=0, low=0, high=0)


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


def paired(low: float, difference: float = 0.0) -> Against:
    def figure(mean: float, low: float, high: float) -> dict[str, Figure]:
        return {"recall": Figure(mean=mean, low=low, high=high), "ndcg": ALIKE}

    view = Comparison(
        view="new", num_users=100, ours=figure(0.2 + difference, 0.1, 0.3),
        theirs=figure(0.2, 0.1, 0.3), difference=figure(difference, low, difference + 0.05),
        our_lists={}, their_lists={},
    )  # fmt: skip
    return Against(bundle_id="a" * 16, called="live", views=[view])


def test_a_good_bundle_passes_everything_there_is() -> None:
    bounds = GateBounds(floors={"new.recall@20": 0.2})
    checks = judge(metrics(), bounds, paired(-0.009))
    assert passed(checks) and len(checks) == 1 + 2 + 2 + 1
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
        ({"metrics": ("recal",), "baselines": ()}, 0.0, {}, "no such figure (found recall, ndcg)"),
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


def test_a_live_bundle_that_cannot_be_compared_with_refuses_unless_that_is_allowed() -> None:
    refused = Against(bundle_id="a" * 16, called="live", refused="it knows answers")
    checks = judge(metrics(), GateBounds(), refused)
    assert not passed(checks)
    assert refusal(checks).endswith("found it knows answers")
    assert passed(judge(metrics(), GateBounds(without_comparison="pass"), refused))


@pytest.mark.parametrize(("worst", "is_allowed"), [(0.0099, True), (0.0101, False)])
def test_a_compressed_bundle_that_lost_more_than_it_may_is_refused(worst, is_allowed) -> None:
    loss = Loss(
        what="new recall", original=0.2, compressed=0.199, loss=0.005, worst=worst, bound=0.01
    )
    checks = judge(metrics() | {"compression": [loss.as_json()]}, GateBounds(), None)
    assert passed(checks) is is_allowed
    if not is_allowed:
        assert "compression, new recall: wanted loss surely 0.0100 or less" in refusal(checks)
