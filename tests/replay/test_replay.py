"""A past answer is computed again to the last bit, and what cannot be is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.inference.threads import torch_threads
from recsys.ranking.operator_file import OperatorFile
from recsys.replay.kept import MAX_KEPT
from recsys.replay.recompute import replay
from recsys.wire import Boost, Pin, RankRequest, RecommendRequest, ReplayResponse
from tests.replay.past_answers import Past

RULES = b"""
[exploration]
policy = "softmax"
temperature = 0.7

[[rules]]
name = "tea-week"
action = "boost"
categories = ["tea"]
factor = 3.0
"""


def outcomes(found: ReplayResponse) -> dict[str, str]:
    return {part.name: part.outcome for part in found.parts}


def with_rules(past: Past, folder: Path) -> Past:
    path = folder / "rules.toml"
    path.write_bytes(RULES)
    rules = OperatorFile(path, history=past.settings.rules_history_dir)
    return Past(
        settings=past.settings, bundle=past.bundle, model=past.model, plan=past.plan,
        operator=rules.current,
    )  # fmt: skip


def test_a_plain_answer_is_equal_to_the_last_bit(past: Past) -> None:
    [exposure] = past.answer(RecommendRequest(user_id="ann", k=10))
    found = replay(past.settings, exposure)
    assert outcomes(found) == dict.fromkeys(("sources", "objectives", "scores", "list"), "equal")
    assert found.equal
    assert not found.different
    assert [item.score for item in found.items] == exposure.scores
    assert found.items[0].objectives.keys() == {"click", "purchase"}
    assert found.items[0].sources


def test_it_is_equal_however_many_threads_there_are(past: Past) -> None:
    exposures = past.answer(RecommendRequest(user_id="ann", k=100)) + past.answer(
        RecommendRequest(user_id="eve", k=100)
    )
    for threads in (2, 3, 5):
        with torch_threads(threads):
            assert [replay(past.settings, one).equal for one in exposures] == [True, True]
            assert torch.get_num_threads() == threads


def test_rules_diversity_weights_and_chance_fall_as_they_fell(past: Past, tmp_path: Path) -> None:
    operated = with_rules(past, tmp_path)
    item_ids = past.bundle.vocabulary.item_ids
    requests = [
        RecommendRequest(user_id="ben", k=20),
        RecommendRequest(user_id="ben", k=20, objective_weights={"purchase": 1.0, "click": 0.2}),
        RecommendRequest(user_id="eve", k=12, diversity=0.4, diversity_by="embedding"),
        RecommendRequest(
            user_id="joe", k=8, explore=False, exclude_seen=False, max_per_category=3,
            boosts=[Boost(factor=4.0, item_ids=list(item_ids[:30]))],
            pins=[Pin(item_id=item_ids[200], position=2)],
        ),
    ]  # fmt: skip
    drawn = 0
    for request in requests:
        [exposure] = operated.answer(request)
        found = replay(past.settings, exposure)
        assert outcomes(found)["list"] == "equal", found.parts
        assert outcomes(found)["scores"] == "equal", found.parts
        if exposure.propensities:
            drawn += 1
            assert outcomes(found)["propensities"] == "equal", found.parts
    assert drawn == 3
    assert exposure.item_ids[2] == item_ids[200]


def test_a_ranked_list_is_scored_again_and_only_the_first_of_a_long_one(past: Past) -> None:
    item_ids = past.bundle.vocabulary.item_ids
    exposure = past.rank(
        RankRequest(
            user_id="ann", item_ids=["nobody knows it", *item_ids[40:70]],
            objective_weights={"click": 1.0},
        )
    )  # fmt: skip
    assert exposure.scores[-1] is None
    found = replay(past.settings, exposure)
    assert outcomes(found) == dict.fromkeys(("sources", "objectives", "scores"), "equal")
    assert found.equal
    assert found.items[-1].score is None
    exposure = past.rank(RankRequest(user_id="ann", item_ids=list(item_ids[:150])))
    found = replay(past.settings, exposure)
    parts = {part.name: part for part in found.parts}
    assert parts["scores"].num_compared == MAX_KEPT
    assert "of the first 100 items" in parts["scores"].detail
    assert parts["scores"].outcome == "equal"


def test_answers_computed_in_one_batch_are_told_by_how_far_they_are_off(past: Past) -> None:
    users = [f"user-{n}" for n in range(9)]
    exposures = past.answer(*(RecommendRequest(user_id=user, k=10) for user in users))
    for exposure in exposures:
        found = replay(past.settings, exposure)
        assert outcomes(found)["list"] == "equal"
        for part in found.parts:
            # Matrix products of other shapes may round otherwise.
            assert part.max_abs_diff < 1e-5, part


def test_a_difference_is_shown(past: Past) -> None:
    [exposure] = past.answer(RecommendRequest(user_id="ann", k=5))
    scores = [(score or 0.0) + 0.25 * (place == 3) for place, score in enumerate(exposure.scores)]
    swapped = [*exposure.item_ids[:3], exposure.item_ids[4], exposure.item_ids[3]]
    found = replay(past.settings, msgspec.structs.replace(exposure, scores=scores))
    parts = {part.name: part for part in found.parts}
    assert found.different
    assert (parts["scores"].outcome, parts["scores"].num_different) == ("different", 1)
    assert parts["scores"].max_abs_diff == pytest.approx(0.25)
    assert parts["objectives"].outcome == "equal"
    found = replay(past.settings, msgspec.structs.replace(exposure, item_ids=swapped))
    assert outcomes(found)["scores"] == "different"


def test_what_is_gone_is_said_and_the_rest_is_compared(past: Past, tmp_path: Path) -> None:
    operated = with_rules(past, tmp_path)
    [exposure] = operated.answer(RecommendRequest(user_id="ben", k=10))
    away = tmp_path / "away"
    shutil.move(past.settings.rules_history_dir, away)
    found = replay(past.settings, exposure)
    assert outcomes(found)["scores"] == "equal"
    assert outcomes(found)["list"] == outcomes(found)["propensities"] == "not_recomputed"
    assert "wanted the operator's rules of version" in found.parts[3].detail
    assert not found.equal
    assert not found.different
    shutil.move(away, past.settings.rules_history_dir)

    gone = msgspec.structs.replace(exposure, bundle="0" * 16)
    found = replay(past.settings, gone)
    assert set(outcomes(found).values()) == {"not_recomputed"}
    assert "no bundle '0000000000000000'" in found.parts[0].detail

    old = msgspec.structs.replace(exposure, replay={})
    found = replay(past.settings, old)
    assert "from before they were kept" in found.parts[0].detail


def test_of_a_fallback_the_list_alone_is_made_again(past: Past) -> None:
    broken = Past(
        settings=past.settings, bundle=past.bundle, model=past.model, plan=past.plan, down=True
    )
    [exposure] = broken.answer(RecommendRequest(user_id="ann", k=6, max_per_category=2))
    assert exposure.rung != "full"
    found = replay(past.settings, exposure)
    assert outcomes(found) == {
        "sources": "not_recomputed", "objectives": "not_recomputed", "scores": "not_recomputed",
        "list": "equal",
    }  # fmt: skip
    assert f"of the rung {exposure.rung}" in found.parts[0].detail


def test_what_is_kept_stays_small(past: Past) -> None:
    def size(request: RecommendRequest) -> tuple[int, int]:
        [exposure] = past.answer(request)
        without = msgspec.structs.replace(exposure, replay={})
        return len(encode_exposure(exposure)), len(encode_exposure(without))

    plain, before = size(RecommendRequest(user_id="ann", k=10))
    assert plain - before < 3_000
    diverse, before = size(RecommendRequest(user_id="ann", k=10, diversity=0.2))
    assert diverse - before < 6_000


def test_exposures_of_before_are_read(past: Past) -> None:
    [exposure] = past.answer(RecommendRequest(user_id="ann", k=3))
    fields = msgspec.json.decode(encode_exposure(exposure))
    del fields["replay"]
    old = msgspec.json.decode(msgspec.json.encode(fields), type=Exposure)
    assert old.replay == {}
    assert old.degraded == ""
