"""Rules: what they say, which goes before which, and what becomes of a file that changes."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest

from recsys.clock import HOUR_MS
from recsys.errors import ConfigurationError, InputError
from recsys.features.names import token_hash
from recsys.ranking.operator_file import OperatorFile, install, read_operator_file
from recsys.ranking.operator_rules import NO_RULES, OperatorRules, read_operator_rules
from recsys.ranking.request_rules import Applying, applying, bind, check_rules
from recsys.ranking.reranking import rerank, rule_effects
from recsys.ranking.rules_cli import main
from recsys.wire import Boost, Freshness, Pin, RecommendRequest, RuleEffect
from tests.inference.toy_bundle import BORN_MS, toy_bundle
from tests.ranking.lists import ranked

BUNDLE = toy_bundle(num_items=12)  # row r: category r % 3 of books, mugs, tea; tag on even rows
NOW_MS = BORN_MS + 12 * HOUR_MS


def rules(text: str) -> OperatorRules:
    return read_operator_rules(text.encode(), source="rules.toml")


def hold(
    operator: OperatorRules = NO_RULES,
    *,
    now_ms: int = NOW_MS,
    tokens: tuple[str, ...] = (),
    **body: object,
) -> Applying:
    request = RecommendRequest(user_id="ann", **body)
    user_tokens = frozenset(token_hash(token) for token in tokens)
    bound = bind(operator, BUNDLE)
    return applying(request, BUNDLE, bound, now_ms=now_ms, user_tokens=user_tokens)


def shown(found: Applying, scores: list[float], k: int = 4, *, probable: bool = False) -> list[int]:
    listed = rerank(
        ranked(scores), BUNDLE, k=k, are_probabilities=probable, applying=found, now_ms=NOW_MS
    )
    return listed.ranked.item_index.tolist()


def test_boosts_and_burials_multiply_the_odds() -> None:
    operator = rules(
        """
        [[rules]]
        name = "mugs"
        action = "boost"
        categories = ["mugs"]
        factor = 4.0
        [[rules]]
        name = "less-of-4"
        action = "bury"
        item_ids = ["item-4"]
        factor = 8.0
        """
    )
    found = hold(operator, boosts=[Boost(factor=2.0, tags=["even=true"])])
    # Log-odds 0 for all: 1 and 7 are mugs, 4 is an even mug and buried, 2 is even.
    scores = [0.0] * 8
    assert shown(found, scores, k=8)[:2] == [1, 7]
    effects = rule_effects(found, ranked(scores), BUNDLE, now_ms=NOW_MS)
    assert effects[3] == [
        RuleEffect(rule="request", action="boost", factor=2.0),
        RuleEffect(rule="mugs", action="boost", factor=4.0),
        RuleEffect(rule="less-of-4", action="boost", factor=0.125),
    ]
    # 2 has odds of 2 to 1, item 4 of 2 * 4 / 8 = 1.
    assert shown(found, scores, k=8)[2:5] == [2, 6, 8]


@pytest.mark.parametrize(("factor", "first"), [(1.9, 1), (2.1, 2)])
def test_a_factor_is_of_odds_whatever_the_scores_are(factor: float, first: int) -> None:
    found = hold(boosts=[Boost(factor=factor, item_ids=["item-2"])])
    assert shown(found, [math.log(2), 0.0], k=2)[0] == first  # log-odds
    assert shown(found, [2 / 3, 1 / 2], k=2, probable=True)[0] == first  # probabilities


def test_freshness_halves_its_logarithm_each_half_life() -> None:
    # Row 12 is born now, row 10 two hours earlier.
    found = hold(freshness=Freshness(factor=16.0, half_life_h=2.0))
    effects = rule_effects(found, ranked([0.0, 0.0], rows=[12, 10]), BUNDLE, now_ms=NOW_MS)
    assert [one.factor for (one,) in effects] == pytest.approx([16.0, 4.0])
    (own,) = rule_effects(found, ranked([0.0], rows=[12]), BUNDLE, now_ms=NOW_MS - HOUR_MS)
    assert own[0].factor == 16.0, "an item of the future is as new as can be"
    operator = rules(
        '[[rules]]\nname = "new"\naction = "freshness"\nfactor = 2.0\nhalf_life_h = 5.0'
    )
    assert hold(operator).freshness == ("new", Freshness(factor=2.0, half_life_h=5.0))
    asked = hold(operator, freshness=Freshness(factor=16.0, half_life_h=2.0)).freshness
    assert asked is not None
    assert asked[0] == "request"


def test_pins_of_the_request_go_first_and_an_item_is_pinned_once() -> None:
    operator = rules(
        """
        [[rules]]
        name = "a"
        action = "pin"
        item_id = "item-9"
        position = 1
        [[rules]]
        name = "b"
        action = "pin"
        item_id = "item-8"
        position = 0
        [[rules]]
        name = "c"
        action = "pin"
        item_id = "item-8"
        position = 2
        """
    )
    scores = [float(-row) for row in range(10)]
    assert shown(hold(operator), scores) == [8, 9, 1, 2]
    asked = hold(operator, k=4, pins=[Pin(item_id="item-7", position=1)])
    assert shown(asked, scores) == [8, 7, 1, 2], "the place is taken; item 9 goes by its score"
    late = hold(k=4, pins=[Pin(item_id="item-7", position=4), Pin(item_id="?", position=0)])
    assert shown(late, scores) == [1, 2, 3, 4]
    end = hold(k=10, pins=[Pin(item_id="item-1", position=9), Pin(item_id="item-2", position=8)])
    assert shown(end, [3.0, 2.0, 1.0], k=10) == [3, 2, 1], "a short list ends with its pins"


def test_caps_the_tightest_minimums_the_largest_and_caps_before_minimums() -> None:
    operator = rules(
        """
        [[rules]]
        name = "each"
        action = "cap"
        most = 3
        [[rules]]
        name = "tea"
        action = "minimum"
        categories = ["tea"]
        least = 3
        [[rules]]
        name = "few-tea"
        action = "cap"
        categories = ["tea"]
        most = 2
        """
    )
    found = hold(operator, max_per_category=5, least_by_category={"tea": 1})
    assert found.bounds.most_of_each == 3
    assert (dict(found.bounds.most), dict(found.bounds.least)) == ({2: 2}, {2: 3})
    scores = [0.0 if row % 3 == 2 else 1.0 for row in range(1, 13)]  # tea is worst
    kinds = [row % 3 for row in shown(found, scores, k=6)]
    assert [kinds.count(category) for category in range(3)] == [2, 2, 2]
    assert kinds[:4].count(2) == 0, "the least of a category is kept by the last places"


def test_windows_segments_and_contexts() -> None:
    operator = rules(
        """
        [[rules]]
        name = "x"
        action = "pin"
        item_id = "item-5"
        position = 0
        starts = 2026-01-01T02:00:00+01:00
        ends = 2026-01-01T04:00:00+01:00
        users = ["country=FR", "vip=true"]
        context = {page = "home"}
        """
    )
    start_ms = BORN_MS + HOUR_MS  # 2026-01-01T01:00:00Z
    me = {"tokens": ("country=FR", "vip=true", "age=7"), "context": {"page": "home"}}
    assert hold(operator, now_ms=start_ms, **me).pins
    assert not hold(operator, now_ms=start_ms - 1, **me).pins
    assert hold(operator, now_ms=start_ms + 2 * HOUR_MS - 1, **me).pins
    assert not hold(operator, now_ms=start_ms + 2 * HOUR_MS, **me).pins
    assert not hold(operator, now_ms=start_ms, **{**me, "tokens": ("country=FR",)}).pins
    assert not hold(operator, now_ms=start_ms, **{**me, "context": {"page": "cart"}}).pins


def test_names_the_bundle_lacks_are_said_and_change_nothing() -> None:
    operator = rules(
        """
        [[rules]]
        name = "a"
        action = "boost"
        item_ids = ["item-1", "gone"]
        categories = ["hats"]
        tags = ["odd=true"]
        factor = 3.0
        [[rules]]
        name = "b"
        action = "pin"
        item_id = "gone too"
        position = 0
        [[rules]]
        name = "c"
        action = "cap"
        categories = ["hats", "tea"]
        most = 1
        """
    )
    assert bind(operator, BUNDLE).unknown == (
        "a: item 'gone'", "a: tag 'odd=true'", "a: category 'hats'", "b: item 'gone too'",
        "c: category 'hats'",
    )  # fmt: skip
    assert shown(hold(operator), [0.5, 1.0, 0.0], k=2) == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rules]]\nname = "a"\naction = "raise"', "raise"),
        ('[[rules]]\nname = "a"\naction = "boost"\nfactor = 2.0', "item_ids, categories or tags"),
        ('[[rules]]\nname = "a"\naction = "boost"\nitem_ids = ["i"]\nfactor = 0.5', "factor"),
        ('[[rules]]\nname = "a"\naction = "cap"\nmost = 1\nmosst = 2', "mosst"),
        ('[[rules]]\nname = "request"\naction = "cap"\nmost = 1', "name of its own"),
        ('[[rules]]\nname = "a"\naction = "cap"\nmost = 1\n' * 2, "name of its own"),
        ('[[rules]]\nname = "a"\naction = "cap"\nmost = 1\nstarts = 2026-01-01T00:00:00', "starts"),
        (
            '[[rules]]\nname = "a"\naction = "cap"\nmost = 1\nstarts = 2026-01-02T00:00:00Z\n'
            "ends = 2026-01-01T00:00:00Z",
            "`starts` before `ends`",
        ),
        ('[exploration]\npolicy = "epsilon"\nepsilon = 1.5', "epsilon"),
        ('[exploration]\npolicy = "luck"', "luck"),
        ("rules = 3", "rules"),
        ("[[rules", "TOML"),
        ('version = "1"', "drop it"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^rules\.toml: ") as caught:
        rules(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"boosts": [Boost(factor=2.0)]}, "boosts[0]"),
        ({"k": 3, "least_by_category": {"tea": 4}}, "least_by_category.tea"),
        ({"max_per_category": 1, "least_by_category": {"tea": 2}}, "least_by_category.tea"),
        ({"k": 3, "least_by_category": {"tea": 2, "mugs": 2}}, "least_by_category"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(body: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        check_rules(RecommendRequest(user_id="ann", **body))
    assert caught.value.field == field


def test_the_file_in_force_changes_as_a_whole_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, draft = tmp_path / "state" / "rules.toml", tmp_path / "draft.toml"
    followed = OperatorFile(path)
    assert followed.current == NO_RULES
    draft.write_text('[exploration]\npolicy = "softmax"')
    installed = install(draft, path)
    followed.look()
    assert followed.current == installed
    assert followed.current.exploration is not None
    assert followed.current.exploration.described() == "softmax(temperature=0.5)"
    assert len(followed.current.version) == 12
    with caplog.at_level(logging.WARNING):
        path.write_text("[[rules")
        followed.look()
        followed.look()
    assert followed.current == installed
    assert len(caplog.records) == 1, "said once"
    draft.write_text("nonsense")
    with pytest.raises(ConfigurationError):
        install(draft, path)
    assert path.read_text() == "[[rules"
    path.unlink()
    followed.look()
    assert followed.current == NO_RULES
    with pytest.raises(ConfigurationError, match="wanted a file of rules"):
        read_operator_file(path)


def test_rules_are_checked_installed_and_shown_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path / "state"))
    draft = tmp_path / "draft.toml"
    draft.write_text('[[rules]]\nname = "a"\naction = "cap"\nmost = 1')
    assert main(["show"]) == 0
    assert json.loads(capsys.readouterr().out) == {"exploration": None, "rules": [], "version": ""}
    assert main(["check", str(draft)]) == 0
    assert not (tmp_path / "state" / "rules.toml").exists()
    assert main(["install", str(draft)]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["rules"], said["bundle"], said["unknown"]) == (1, None, [])
    assert main(["show"]) == 0
    shown_rules = json.loads(capsys.readouterr().out)
    assert (shown_rules["version"], shown_rules["rules"][0]["most"]) == (said["version"], 1)
    draft.write_text("most = 1")
    assert main(["install", str(draft)]) == 2
    assert "draft.toml: wanted rules as TOML" in capsys.readouterr().err


def test_embeddings_are_those_of_the_file_in_every_precision(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from recsys.bundle.item_embeddings import ITEMS_FILE, map_item_embeddings
    from recsys.compression.item_vectors import in_precision
    from recsys.errors import BundleError

    vectors = torch.nn.functional.normalize(
        torch.randn(301, 8, generator=torch.Generator().manual_seed(1)), dim=1
    )
    vectors[0] = 0.0
    wanted = np.array([3, 300, 1, 3], dtype=np.int32)
    for precision in ("float32", "float16", "int8", "pq"):
        stored = in_precision(vectors, precision)  # type: ignore[arg-type]
        save_file(
            {**stored.tensors(), "available": torch.ones(301, dtype=torch.bool)},
            tmp_path / ITEMS_FILE,
        )
        found = map_item_embeddings(tmp_path, num_items=300).rows(wanted)
        assert found.dtype == np.float32
        assert found == pytest.approx(stored.decoded()[wanted.tolist()].numpy(), abs=1e-5)
    with pytest.raises(BundleError, match="299 items, found 300"):
        map_item_embeddings(tmp_path, num_items=299)
    (tmp_path / ITEMS_FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(BundleError, match="wanted item vectors as safetensors"):
        map_item_embeddings(tmp_path, num_items=300)
