"""What a worker does: towers, lists, ranker, and the sources again on all data before the test.

::

    early visits ──► towers A ─┐
    early entries ─► neighbours A ─┴─► lists of the ranker's part ──► ranker
    all visits ────► towers B (from A on) ─┐
    all entries ───► neighbours B ─────────┴─► bundle
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.serving import TorchServingModel
from recsys.models.two_tower import TwoTower
from recsys.retrieval.ease import MAX_ITEMS, fit_ease, strongest
from recsys.retrieval.item_knn import fit_item_knn
from recsys.retrieval.mix import build_sources
from training.loop import Checkpoints, Run, World
from training.prepared import Edges, Prepared
from training.ranker_steps import RankerSteps, lists_of_round
from training.recipes import Recipe
from training.tower_steps import TowerSteps

Weights = dict[str, Tensor]


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
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> Fitted:
    """Fit everything. Workers all call this; what they return is the same."""
    recipe = prepared.recipe
    torch.manual_seed(recipe.seed)
    run = Run(seed=recipe.seed, world=world, checkpoints=checkpoints, on_epoch=on_epoch)
    table = ItemTable(prepared.statics)
    towers = TwoTower(recipe.model, prepared.dimensions, table).to(world.device)
    early = prepared.visit_is_early.nonzero().flatten()
    dense = prepared.visit_context["user_dense"]
    towers.users.dense.fit((dense[early] if len(early) else dense).to(world.device))
    ranker = Ranker(
        recipe.ranker_model, prepared.dimensions, table, recipe.model.embedding_size
    ).to(world.device)

    _give_identities(table, prepared.early_edges, recipe)
    steps = TowerSteps(prepared, towers, early, prepared.early_edges.counts, world)
    run.train(steps.phase("towers", recipe.towers.epochs))
    item_vectors = _item_vectors(towers)
    neighbours = fit_neighbours(prepared.early_edges, recipe, table.num_items)

    rounds = []
    for number, question in enumerate(prepared.rounds):
        model = assemble(
            prepared, towers=towers, ranker=ranker, item_vectors=item_vectors,
            neighbours=neighbours, activity=question.activity, as_of_ms=question.as_of_ms,
            available=torch.arange(table.num_items + 1) > 0, device=world.device,
        )  # fmt: skip
        rounds.append(lists_of_round(prepared, question, model, ranker, seed=recipe.seed + number))
    run.train(RankerSteps(prepared, ranker, rounds, item_vectors, world).phase("ranker"))
    del rounds

    _give_identities(table, prepared.all_edges, recipe)
    every = torch.arange(len(prepared.visit_is_early))
    steps = TowerSteps(prepared, towers, every, prepared.all_edges.counts, world)
    run.train(steps.phase("towers again", recipe.towers.refit_epochs))
    neighbours = fit_neighbours(prepared.all_edges, recipe, table.num_items)
    return Fitted(
        towers=_weights(towers),
        ranker=_weights(ranker),
        item_vectors=_item_vectors(towers).cpu(),
        neighbour_index=neighbours[0],
        neighbour_weight=neighbours[1],
        curve=run.curve,
    )


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
        item_vectors=item_vectors.to(device),
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
