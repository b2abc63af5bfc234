"""A student that listens: the loss by hand, and a run in which a larger ranker teaches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recsys.errors import ConfigurationError
from recsys.models.config import RankerConfig
from tests.training.test_runs import prepared
from training.debug_bundle import made_up_log
from training.distillation import soft_listwise
from training.fit import fit
from training.loop import NoCheckpoints, World
from training.recipe_file import changed, read_recipe, write_recipe
from training.recipes import Distillation, debug

SMALL = Distillation(
    teacher=RankerConfig(hidden_size=32, attention_heads=2, num_experts=2), epochs=2, share=0.9
)


def test_the_loss_by_hand() -> None:
    logits, teacher = torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[2.0, 0.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    p = 1 / (1 + math.exp(-1.0))  # a difference of 2 at temperature 2
    wanted = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    found = soft_listwise(logits, teacher, mask, 2.0)
    assert math.isclose(float(found), wanted, rel_tol=1e-5)


def test_the_same_opinion_costs_nothing_and_an_empty_list_does_not_count() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    same = soft_listwise(logits, logits.detach() + 3.0, mask, 1.5)
    assert math.isclose(float(same.detach()), 0.0, abs_tol=1e-6)
    nobody = soft_listwise(logits, torch.randn(3, 5), torch.zeros_like(mask), 1.5)
    nobody.backward()
    assert float(nobody.detach()) == 0.0 and not bool(logits.grad.any())


@pytest.fixture(scope="module")
def log():
    return made_up_log()


def test_a_teacher_is_trained_first_and_changes_what_the_student_learns(log) -> None:
    alone = fit(prepared(log), world=World(), checkpoints=NoCheckpoints())
    taught = [
        fit(
            prepared(log, replace(debug(), distillation=SMALL)),
            world=World(), checkpoints=NoCheckpoints(),
        )
        for _ in range(2)
    ]  # fmt: skip
    phases = list(dict.fromkeys(phase for phase, _, _ in taught[0].curve))
    assert phases == ["towers", "teacher", "ranker", "towers again"]
    assert {n: w.shape for n, w in taught[0].ranker.items()} == {
        n: w.shape for n, w in alone.ranker.items()
    }
    assert not torch.equal(taught[0].ranker["output.weight"], alone.ranker["output.weight"])
    for name, weights in taught[0].ranker.items():
        assert torch.equal(weights, taught[1].ranker[name]), name
    for name, weights in taught[0].towers.items():
        assert torch.equal(weights, alone.towers[name]), name


def test_a_recipe_file_may_ask_for_a_teacher(tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('base = "debug"\n[distillation]\nshare = 0.7\n[distillation.teacher]\n'
                    "hidden_size = 99\n")  # fmt: skip
    found = read_recipe(path)
    assert found.distillation is not None
    assert (found.distillation.share, found.distillation.teacher.hidden_size) == (0.7, 99)
    again = tmp_path / "again.json"
    write_recipe(again, found)
    assert read_recipe(again) == found
    assert changed(found, {"distillation": None}, where="x").distillation is None
    path.write_text('base = "debug"\n[distillation]\nshear = 0.7\n')
    with pytest.raises(ConfigurationError, match=r'"distillation\.shear"; did you mean'):
        read_recipe(path)
