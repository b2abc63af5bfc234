"""A run from log to bundle: nothing of the future leaks in, and a killed one goes on as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.errors import ConfigurationError, InputError, MappingError
from recsys.models.item_table import ItemTable
from recsys.models.two_tower import TwoTower
from tests.bundle.test_bundle import small_plan
from training.bundle_run import Made, make_bundle
from training.checkpoint_files import read_state, write_state
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.examples.build import Place
from training.fit import fit
from training.loop import NoCheckpoints, State, World
from training.objectives import objectives_of
from training.prepare import prepare
from training.prepared import Prepared
from training.progress import Progress
from training.ray_job import run_name
from training.recipes import debug, find_recipe
from training.source import Source
from training.tower_steps import TowerSteps

QUIET = Progress(quiet=True)


def prepared(
    log: pl.DataFrame, recipe=None, test_from_ms: int | None = None, root: Path | None = None
) -> Prepared:
    return prepare(
        log, small_plan(), recipe or debug(), OBJECTIVES, test_from_ms=test_from_ms, progress=QUIET,
        examples=Place(root=root) if root else None,
    )[0]  # fmt: skip


def made(log: pl.DataFrame, folder: Path, test_from_ms: int | None = None) -> Made:
    source = Source(
        log=log, plan=small_plan(), dataset="made_up", objectives=OBJECTIVES,
        views=("repeats_allowed",), k=5, relevant_type="purchase", test_from_ms=test_from_ms,
    )  # fmt: skip
    return make_bundle(
        source, debug(), folder, world=World(), checkpoints=NoCheckpoints(), progress=QUIET,
        now_ms=DEBUG_END_MS,
    )  # fmt: skip


def test_what_is_learned_does_not_depend_on_the_test_period(tmp_path: Path) -> None:
    """Plants a signal that only the future holds: every user buys item-0 after the split."""
    log = made_up_log()
    test_from_ms = DEBUG_END_MS - 4 * 86_400_000
    users = [f"user-{u}" for u in range(60)]
    planted = pl.DataFrame(
        {
            "kind": "interaction", "event_id": [f"planted-{u}" for u in users],
            "event_time_ms": test_from_ms + 1000, "user_id": users, "item_id": "item-0",
            "type": "purchase", "value": 20.0,
        }
    )  # fmt: skip
    honest = made(log, tmp_path / "a", test_from_ms)
    leaky = made(pl.concat([log, planted], how="diagonal"), tmp_path / "b", test_from_ms)
    for name in ("towers", "ranker", "items"):
        file = f"{name}.safetensors"
        assert honest.manifest.files[file] == leaky.manifest.files[file], file
    recall = leaky.verdict.tables["repeats_allowed"]["served"].by_user["recall"].mean
    assert recall < 0.75  # knowing the plant alone would give most users all they took


def test_a_question_sees_nothing_of_its_own_answer() -> None:
    found = prepared(made_up_log())
    for question in found.rounds:
        assert question.as_of_ms < found.split.test_from_ms
    visits = found.visits.between(None, None).every().context
    latest, used = visits["history_age_s"], visits["history_index"] != 0
    assert (latest[used] >= 0).all()
    # A visit's moment is before its first item: with one visit there is no history at all.
    first_visits = ~used.any(dim=1)
    assert int(first_visits.sum()) == 60


@pytest.mark.parametrize("softmax", ["sampled", "full"])
def test_items_that_come_later_are_no_negatives(softmax) -> None:
    """A late item's category, which nothing else has, is left as it was by a step."""
    log, test_from_ms = made_up_log(), DEBUG_END_MS - 4 * 86_400_000
    late = log.filter(pl.col("kind") == "item").head(1).with_columns(
        pl.lit("a-late-item").alias("item_id"), pl.lit("late").alias("event_id"),
        pl.lit("zzz").alias("category"), pl.lit(test_from_ms + 1).alias("event_time_ms"),
    )  # fmt: skip
    recipe = debug()
    recipe = replace(recipe, towers=replace(recipe.towers, softmax=softmax))
    task = prepared(pl.concat([log, late], how="diagonal"), recipe, test_from_ms)
    towers = TwoTower(task.recipe.model, task.dimensions, ItemTable(task.statics))
    every = task.visits.between(None, None)
    steps = TowerSteps(task, towers, every, task.all_edges.counts, World()).phase("towers", 1)
    generator = torch.Generator().manual_seed(1)
    steps.loss(every.every(), generator).backward()
    moved = towers.items.category.weight.grad.abs().sum(1) > 0
    assert task.statics.category[1] == task.dimensions.num_categories - 1
    assert moved[:-2].all() and not moved[-2]


def test_an_item_is_no_negative_of_a_visit_before_it_appeared() -> None:
    log = made_up_log()
    begin_ms = int(log["event_time_ms"].min())
    middle = begin_ms + 15 * 86_400_000
    late = log.filter(pl.col("kind") == "item").head(1).with_columns(
        pl.lit("a-late-item").alias("item_id"), pl.lit("late").alias("event_id"),
        pl.lit("zzz").alias("category"), pl.lit(middle).alias("event_time_ms"),
    )  # fmt: skip
    task = prepared(pl.concat([log, late], how="diagonal"))
    before = task.visits.between(None, middle).every()
    after = task.visits.between(middle + 1, None).every()
    assert len(before) > 30 and len(after) > 30
    for batch, is_negative in ((before, False), (after, True)):
        for softmax in ("sampled", "full"):
            recipe = replace(task.recipe, towers=replace(task.recipe.towers, softmax=softmax))
            one = replace(task, recipe=recipe)
            towers = TwoTower(recipe.model, task.dimensions, ItemTable(task.statics))
            every = task.visits.between(None, None)
            steps = TowerSteps(one, towers, every, task.all_edges.counts, World())
            phase = steps.phase("towers", 1)
            phase.loss(batch, torch.Generator().manual_seed(1)).backward()
            moved = bool(towers.items.category.weight.grad[-2].abs().sum() > 0)
            assert moved == is_negative, (softmax, is_negative)


def test_a_newcomer_is_met_in_training_as_it_is_served() -> None:
    """An item without an embedding has the vector that its first days taught; those teach it."""
    task = prepared(made_up_log())
    assert task.recipe.model.learns_newcomers
    torch.manual_seed(0)
    towers = TwoTower(task.recipe.model, task.dimensions, ItemTable(task.statics))
    towers.items.table.has_id[:] = True
    towers.items.table.has_id[5] = False
    every = task.visits.between(None, None)
    steps = TowerSteps(task, towers, every, task.all_edges.counts, World()).phase("towers", 1)
    first_days = int(every.every().moment_ms.min()) + 2 * 86_400_000
    gradients = []
    for visits in (task.visits.between(None, first_days), task.visits.between(first_days, None)):
        towers.zero_grad()
        steps.loss(visits.every(), torch.Generator().manual_seed(1)).backward()
        gradients.append(float(towers.items.newcomer.grad.abs().sum()))
    assert gradients[0] > 3 * gradients[1]  # later only item 5 is one
    with torch.no_grad():
        towers.items.newcomer.normal_()
        towers.eval()
        assert torch.equal(towers.items()[5], towers.items.as_newcomers()[5])
        assert not torch.equal(towers.items()[6], towers.items.as_newcomers()[6])
        assert not towers.items.as_newcomers()[0].any()


class KilledError(Exception):
    """Stands for a process that is no more."""


class _Kept:
    """Checkpoints on disk; dies after some saves."""

    def __init__(self, folder: Path, *, dies_after: int) -> None:
        self.folder, self.left = folder, dies_after

    def latest(self) -> State | None:
        return read_state(self.folder) if (self.folder / "state.pt").exists() else None

    def save(self, state: State, metrics: dict[str, float]) -> None:
        write_state(self.folder, state)
        self.left -= 1
        if self.left == 0:
            raise KilledError


@pytest.mark.parametrize("dies_after", [1, 3, 4])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(tmp_path: Path, dies_after) -> None:
    task = prepared(made_up_log())
    whole = fit(task, world=World(), checkpoints=NoCheckpoints())
    with pytest.raises(KilledError):
        fit(task, world=World(), checkpoints=_Kept(tmp_path, dies_after=dies_after))
    resumed = fit(task, world=World(), checkpoints=_Kept(tmp_path, dies_after=-1))
    assert resumed.curve == whole.curve
    for name, value in whole.ranker.items():
        assert torch.equal(value, resumed.ranker[name]), name
    assert torch.equal(whole.item_vectors, resumed.item_vectors)


def test_a_damaged_checkpoint_is_noticed(tmp_path: Path, caplog) -> None:
    write_state(tmp_path, {"done": {}, "current": None, "curve": []})
    assert read_state(tmp_path) is not None
    with (tmp_path / "state.pt").open("ab") as file:
        file.write(b"x")
    assert read_state(tmp_path) is None
    assert "damaged" in caplog.text


def test_a_run_has_one_name_in_every_process(tmp_path: Path) -> None:
    """The same command after a kill must find what it had begun."""
    names, given = [], {"towers": {"w": torch.ones(2)}}
    for again in range(3):
        task = prepared(made_up_log(), root=tmp_path / "examples")
        names.append(run_name(task, given))
        if again == 1:  # made anew, as they were first
            shutil.rmtree(tmp_path / "examples")
    task.save(tmp_path / "prepared.pt")
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from training.prepared import Prepared; from training.ray_job import run_name\n"
        "task = Prepared.load(Path(sys.argv[1]))\n"
        "print(run_name(task, {'towers': {'w': torch.ones(2)}}))\n"
    )
    root = str(Path(__file__).parents[2])
    other = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "prepared.pt")], cwd=root, check=True,
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": root},
    )  # fmt: skip
    assert {*names, other.stdout.strip()} == {names[0]}
    assert run_name(task, {"towers": {"w": torch.zeros(2)}}) != names[0]
    retuned = replace(task.recipe, towers=replace(task.recipe.towers, learning_rate=1e-4))
    assert run_name(replace(task, recipe=retuned), given) != names[0]
    with pytest.raises(TypeError, match="a run's name cannot be made of set"):
        run_name(task, {"towers": {"w": {1, 2}}})


def test_data_with_impressions_learn_from_shown_lists(tmp_path: Path) -> None:
    log = made_up_log()
    bought = log.filter(pl.col("kind") == "interaction").with_row_index("n")
    rng = np.random.default_rng(3)
    shown = bought.select(
        pl.lit("impression").alias("kind"),
        ("impression-" + pl.col("n").cast(pl.String)).alias("event_id"),
        (pl.col("event_time_ms") - 500).alias("event_time_ms"),
        "user_id",
        ("request-" + pl.col("n").cast(pl.String)).alias("request_id"),
        pl.Series(
            "items",
            [
                [item, *(f"item-{i}" for i in rng.integers(0, 78, 5) if f"item-{i}" != item)]
                for item in bought["item_id"]
            ],
        ),
    )
    log = pl.concat([log, shown], how="diagonal").with_columns(
        pl.when(pl.col("kind") == "impression").then(pl.col("request_id")).alias("request_id")
    )
    found = prepared(log)
    assert all(r.shown is not None and r.shown_label is not None for r in found.rounds)
    assert sum(float(r.shown_label[:, 0, 0].sum()) for r in found.rounds) > 10
    assert made(log, tmp_path).folder.is_dir()


def test_a_recipe_may_let_the_ranker_begin_without_an_order() -> None:
    base = debug()
    recipe = replace(base, ranker=replace(base.ranker, epochs=0, zero_start=True))
    task = prepared(made_up_log(), recipe)
    weights = fit(task, world=World(), checkpoints=NoCheckpoints()).ranker
    assert not weights["output.weight"].any() and not weights["direct.weight"].any()
    assert weights["project_item.weight"].any() and weights["calibrate_user.2.bias"].any()


def test_bad_runs_are_refused_before_time_is_spent() -> None:
    log = made_up_log()
    with pytest.raises(InputError, match="--test-from"):
        prepared(log, test_from_ms=1)
    with pytest.raises(ConfigurationError, match="interactions_9d"):
        prepared(log, replace(debug(), popular_columns={"interactions_9d": 1.0}))
    with pytest.raises(InputError, match="no interaction"):
        prepared(log.filter(pl.col("kind") != "interaction"))
    nothing = [OBJECTIVES[0].model_copy(update={"interaction": "wish"})]
    with pytest.raises(InputError, match='no "wish" event'):
        prepare(log, small_plan(), debug(), nothing, test_from_ms=None, progress=QUIET)
    with pytest.raises(ConfigurationError, match="no recipe 'dream'"):
        find_recipe("dream")


def test_objectives_come_from_the_mapping_or_else_from_the_log() -> None:
    retail = objectives_of("online_retail", made_up_log())
    assert [o.name for o in retail.objectives] == ["purchase", "bulk_purchase"]
    assert retail.test_from_ms == 1_320_796_800_000
    other = objectives_of("simulated", made_up_log())
    assert [o.name for o in other.objectives] == ["purchase"]


def test_a_mistyped_data_set_is_refused_not_guessed() -> None:
    with pytest.raises(MappingError, match="did you mean 'online_retail'"):
        objectives_of("onlin_retail", made_up_log())
