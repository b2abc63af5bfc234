"""What a worker does: towers, index, ranker, and the sources again on all data before the test.

::

    early visits ──► towers ──► index ──► lists of the ranker's part ──► ranker
    early entries ──────────────┘ │
    all visits ────► refit: towers (from the first on), index ──► bundle
    all entries ───────────────┘

Each box is a step: a function of what was prepared and of what the steps before it gave, so that it
can be run in one go (``fit``), or one by one with their outputs kept between them, with the same
result to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.compression.item_vectors import Float32Vectors
from recsys.errors import InputError
from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.serving import TorchServingModel
from recsys.models.two_tower import TwoTower
from recsys.retrieval.ease import MAX_ITEMS, fit_ease, strongest
from recsys.retrieval.item_knn import fit_item_knn
from recsys.retrieval.mix import build_sources
from training.distillation import Teaching
from training.examples.stream import VisitSelection
from training.loop import Checkpoints, Run, World
from training.prepared import Edges, Prepared
from training.ranker_steps import RankerSteps, RoundLists, lists_of_round
from training.recipes import Recipe
from training.tower_steps import TowerSteps

Weights = dict[str, Tensor]
Output = dict[str, Any]
"""What a step gives, on the CPU: weights, tensors and its part of the ``curve``."""
_SCALED_BY = 200_000
"""Visits that inputs are standardised by: enough for two moments, and little memory."""
OnEpoch = Callable[[str, int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a run, on the CPU."""

    towers: Weights
    ranker: Weights
    item_vectors: Tensor
    """``[N + 1, D]``."""
    neighbour_index: Tensor
    neighbour_weight: Tensor
    curve: list[tuple[str, int, float]]
    """``(phase, epoch, mean loss)``."""


def fit(
    prepared: Prepared,
    *,
    world: World,
    checkpoints: Checkpoints,
    on_epoch: OnEpoch = lambda *_: None,
) -> Fitted:
    """Run all steps. Workers all call this; what they return is the same."""
    run = Run(
        seed=prepared.recipe.seed, world=world, checkpoints=checkpoints,
        engine=prepared.recipe.engine, on_epoch=on_epoch,
    )  # fmt: skip
    done: dict[str, Output] = {}
    for name, step in FIT_STEPS.items():
        done[name] = step(prepared, done, run, world)
    return fitted_of(done)


def fit_step(
    name: str,
    prepared: Prepared,
    given: Mapping[str, Output],
    *,
    world: World,
    checkpoints: Checkpoints,
    on_epoch: OnEpoch = lambda *_: None,
) -> Output:
    """Run the step ``name`` of ``FIT_STEPS`` alone, ``given`` what the steps before it gave."""
    run = Run(
        seed=prepared.recipe.seed, world=world, checkpoints=checkpoints,
        engine=prepared.recipe.engine, on_epoch=on_epoch,
    )  # fmt: skip
    return FIT_STEPS[name](prepared, given, run, world)


def fitted_of(done: Mapping[str, Output]) -> Fitted:
    """Put what all steps gave together."""
    final = done["refit"]
    return Fitted(
        towers=final["towers"],
        ranker=done["ranker"]["ranker"],
        item_vectors=final["item_vectors"],
        neighbour_index=final["neighbour_index"],
        neighbour_weight=final["neighbour_weight"],
        curve=[row for name in FIT_STEPS for row in done[name].get("curve", ())],
    )


def _fit_towers(prepared: Prepared, given: Mapping[str, Output], run: Run, world: World) -> Output:
    """Give the towers' weights after the visits before the ranker's part."""
    del given
    table, towers, _ = _models(prepared, world)
    early = prepared.visits.between(None, prepared.split.ranker_from_ms)
    known = early if len(early) else prepared.visits.between(None, None)
    dense = known.column("user_dense", limit=_SCALED_BY)
    towers.users.dense.fit(dense.to(world.device))
    _give_identities(table, prepared.early_edges, prepared.recipe)
    held_out = None
    if prepared.recipe.engine.patience > 0:
        early, held_out = _held_out(prepared)
    steps = TowerSteps(prepared, towers, early, prepared.early_edges.counts, world, held_out)
    run.train(steps.phase("towers", prepared.recipe.towers.epochs))
    return {"towers": _weights(towers), "curve": _curve(run, "towers")}


def _held_out(prepared: Prepared) -> tuple[VisitSelection, VisitSelection]:
    """Give the early visits without the latest of them, and those."""
    split = prepared.split
    span_ms = split.ranker_from_ms - split.begin_ms
    from_ms = split.ranker_from_ms - int(span_ms * prepared.recipe.engine.validation_share)
    early = prepared.visits.between(None, from_ms)
    late = prepared.visits.between(from_ms, split.ranker_from_ms)
    if not len(early) or not len(late):
        raise InputError(
            f"engine.patience wants visits to learn from and later ones to hold out, found "
            f"{len(early)} and {len(late)}; change engine.validation_share "
            f"({prepared.recipe.engine.validation_share}), or set engine.patience to 0"
        )
    return early, late


def _build_index(prepared: Prepared, given: Mapping[str, Output], run: Run, world: World) -> Output:
    """Give item vectors and neighbours as they were before the ranker's part."""
    del run
    _, towers, _ = _models(prepared, world, towers=given["towers"]["towers"])
    return _index(prepared, towers, prepared.early_edges)


def _fit_ranker(prepared: Prepared, given: Mapping[str, Output], run: Run, world: World) -> Output:
    """Give the ranker's weights after lists that the early towers and index retrieve."""
    recipe, index = prepared.recipe, given["index"]
    table, towers, ranker = _models(prepared, world, towers=given["towers"]["towers"])
    item_vectors = index["item_vectors"].to(world.device)
    rounds = []
    for number, question in enumerate(prepared.rounds):
        model = assemble(
            prepared, towers=towers, ranker=ranker, item_vectors=item_vectors,
            neighbours=(index["neighbour_index"], index["neighbour_weight"]),
            activity=question.activity, as_of_ms=question.as_of_ms,
            available=torch.arange(table.num_items + 1) > 0, device=world.device,
        )  # fmt: skip
        rounds.append(lists_of_round(prepared, question, model, ranker, seed=recipe.seed + number))
    teaching = _teach(prepared, table, rounds, item_vectors, run, world)
    steps = RankerSteps(prepared, ranker, rounds, item_vectors, world, teaching)
    run.train(steps.phase("ranker"))
    return {
        "ranker": _weights(ranker),
        "curve": _curve(run, "teacher") + _curve(run, "ranker"),
    }


def _teach(
    prepared: Prepared,
    table: ItemTable,
    rounds: list[RoundLists],
    item_vectors: Tensor,
    run: Run,
    world: World,
) -> Teaching | None:
    """Train the recipe's large ranker and ask it of every list; None when there is none."""
    recipe, wanted = prepared.recipe, prepared.recipe.distillation
    if wanted is None:
        return None
    torch.manual_seed(recipe.seed)
    teacher = Ranker(
        wanted.teacher, prepared.dimensions, table, recipe.model.embedding_size
    ).to(world.device)  # fmt: skip
    steps = RankerSteps(prepared, teacher, rounds, item_vectors, world)
    run.train(steps.phase("teacher", epochs=wanted.epochs))
    return Teaching(rounds=steps.opinions(), share=wanted.share, temperature=wanted.temperature)


def _refit(prepared: Prepared, given: Mapping[str, Output], run: Run, world: World) -> Output:
    """Give towers that trained on over all visits before the test, and the index they make."""
    table, towers, _ = _models(prepared, world, towers=given["towers"]["towers"])
    _give_identities(table, prepared.all_edges, prepared.recipe)
    every = prepared.visits.between(None, None)
    steps = TowerSteps(prepared, towers, every, prepared.all_edges.counts, world)
    run.train(steps.phase("towers again", prepared.recipe.towers.refit_epochs))
    return {
        "towers": _weights(towers),
        "curve": _curve(run, "towers again"),
        **_index(prepared, towers, prepared.all_edges),
    }


FIT_STEPS: dict[str, Callable[[Prepared, Mapping[str, Output], Run, World], Output]] = {
    "towers": _fit_towers,
    "index": _build_index,
    "ranker": _fit_ranker,
    "refit": _refit,
}
"""In order; each may use what any before it gave."""


def _models(
    prepared: Prepared, world: World, *, towers: Weights | None = None
) -> tuple[ItemTable, TwoTower, Ranker]:
    """Give the models as they begin, always the same for a seed, or with the towers' weights."""
    recipe = prepared.recipe
    torch.manual_seed(recipe.seed)
    table = ItemTable(prepared.statics)
    two_tower = TwoTower(recipe.model, prepared.dimensions, table).to(world.device)
    ranker = Ranker(
        recipe.ranker_model, prepared.dimensions, table, recipe.model.embedding_size
    ).to(world.device)
    if towers is not None:
        two_tower.load_state_dict(towers)
        two_tower.eval()
    return table, two_tower, ranker


def _index(prepared: Prepared, towers: TwoTower, edges: Edges) -> Output:
    neighbours = fit_neighbours(edges, prepared.recipe, len(prepared.available) - 1)
    return {
        "item_vectors": _item_vectors(towers).cpu(),
        "neighbour_index": neighbours[0],
        "neighbour_weight": neighbours[1],
    }


def _curve(run: Run, phase: str) -> list[tuple[str, int, float]]:
    return [row for row in run.curve if row[0] in (phase, f"{phase} validation")]


def fit_neighbours(edges: Edges, recipe: Recipe, num_items: int) -> tuple[Tensor, Tensor]:
    """Give item-to-item neighbours ``[N + 1, M]`` and weights, by EASE where it can be solved."""
    config = recipe.neighbours
    method = config.method
    if method == "auto":
        method = "ease" if num_items <= MAX_ITEMS else "knn"
    if method == "ease":
        weights = fit_ease(
            edges.user, edges.item, edges.weight, num_users=edges.num_users,
            num_items=num_items, penalty=config.penalty,
        )  # fmt: skip
        return strongest(weights, config.num_neighbours)
    return fit_item_knn(
        edges.user, edges.item, edges.weight, num_users=edges.num_users, num_items=num_items,
        num_neighbours=config.num_neighbours, shrinkage=config.shrinkage,
    )  # fmt: skip


def assemble(
    prepared: Prepared,
    *,
    towers: TwoTower,
    ranker: Ranker,
    item_vectors: Tensor,
    neighbours: tuple[Tensor, Tensor],
    activity: Tensor,
    as_of_ms: int,
    available: Tensor,
    device: torch.device,
) -> TorchServingModel:
    """Put the parts together as they are served."""
    return TorchServingModel(
        dimensions=prepared.dimensions,
        towers=towers,
        ranker=ranker,
        sources=build_sources(
            prepared.recipe.sources,
            neighbour_index=neighbours[0].to(device),
            neighbour_weight=neighbours[1].to(device),
            popular_weights=prepared.popular_weights.to(device),
        ),
        mix=prepared.recipe.sources,
        objective_weights=torch.tensor([o.weight for o in prepared.objectives], device=device),
        item_vectors=Float32Vectors(item_vectors.to(device)),
        available=available.to(device),
        item_activity=activity.to(device),
        item_activity_as_of_ms=as_of_ms,
    )


def _give_identities(table: ItemTable, edges: Edges, recipe: Recipe) -> None:
    """Let items that were seen often enough have an embedding of their own."""
    has_id = edges.counts >= recipe.min_interactions_for_id
    has_id[0] = False
    table.has_id.copy_(has_id)


@torch.no_grad()
def _item_vectors(towers: TwoTower) -> Tensor:
    towers.eval()
    vectors: Tensor = towers.items()
    return vectors


def _weights(module: torch.nn.Module) -> Weights:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
