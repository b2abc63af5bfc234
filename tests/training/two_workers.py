"""``python -m tests.training.two_workers FOLDER RANK``: one of two workers; rank 0 writes findings.

What two workers find is compared with what one finds, all in this process: whole gradients, tables
spread by rows, sparse gradients. ``test_two_workers.py`` starts both and looks.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.two_tower import TwoTower
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import OBJECTIVES, made_up_log
from training.distillation import Teaching
from training.engine import Engine
from training.fit import assemble, fit_neighbours
from training.loop import NoCheckpoints, Phase, Run, State
from training.prepare import prepare
from training.prepared import Prepared
from training.progress import Progress
from training.ranker_steps import RankerSteps, lists_of_round
from training.recipes import debug
from training.tower_steps import TowerSteps
from training.world import World

Gradients = dict[str, Tensor]


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    both = World(rank=rank, size=2)
    found: dict[str, Any] = {"gathered": gathered(both)}
    task = quiet_task()
    for softmax in ("sampled", "full"):
        found[softmax] = (gradients(task, World(), softmax), gradients(task, both, softmax))
    for name, engine in {
        "plain": Engine(),
        "spread": Engine(shard_tables_mb=1e-6),
        "sparse": Engine(sparse_tables=True),
        "clipped": Engine(clip_norm=0.01, accumulate_batches=2),
        "spread and clipped": Engine(shard_tables_mb=1e-6, clip_norm=0.01),
    }.items():
        alone = engine if not engine.shard_tables_mb else replace(engine, shard_tables_mb=0)
        found[name] = (looked_up(World(), alone)[0], *looked_up(both, engine))
    found["resumed"] = resumed(both)
    found["ranker"] = (ranker_gradients(task, World()), ranker_gradients(task, both))
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


def gathered(world: World) -> tuple[Tensor, Tensor]:
    """Give three rows gathered from two workers, and the gradient of this one's."""
    own = torch.full((1 + world.rank, 2), float(world.rank), requires_grad=True)
    every = world.gathered(own)
    (every * torch.arange(6.0).view(3, 2)).sum().backward()
    return every.detach(), own.grad


def quiet_task() -> Prepared:
    """Give a task without dropout, whose draws are then all common."""
    base = debug()
    recipe = replace(base, model=replace(base.model, dropout=0.0, id_dropout=0.0))
    return prepare(
        made_up_log(), small_plan(), recipe, OBJECTIVES, test_from_ms=None,
        progress=Progress(quiet=True),
    )[0]  # fmt: skip


def ranker_gradients(task: Prepared, world: World) -> Gradients:
    """Give the gradients of one batch of the ranker, which also learns from what it thought."""
    torch.manual_seed(4)
    towers = TwoTower(task.recipe.model, task.dimensions, ItemTable(task.statics)).eval()
    with torch.no_grad():
        vectors = towers.items()
    table = ItemTable(task.statics)
    ranker = Ranker(task.recipe.ranker_model, task.dimensions, table, vectors.shape[1])
    rounds = []
    for question in task.rounds:
        model = assemble(
            task, towers=towers, ranker=ranker, item_vectors=vectors,
            neighbours=fit_neighbours(task.early_edges, task.recipe, table.num_items),
            activity=question.activity, as_of_ms=question.as_of_ms,
            available=torch.arange(table.num_items + 1) > 0, device=world.device,
        )  # fmt: skip
        rounds.append(lists_of_round(task, question, model, ranker, seed=5))
    opinions = RankerSteps(task, ranker, rounds, vectors, World()).opinions()
    ranker.train()
    teaching = Teaching(rounds=opinions, share=0.4, temperature=2.0)
    phase = RankerSteps(task, ranker, rounds, vectors, world, teaching).phase("ranker")
    batch = next(iter(phase.batches(torch.Generator().manual_seed(6))))
    phase.loss(batch, torch.Generator()).backward()
    world.average_gradients(ranker)
    return {n: p.grad for n, p in ranker.named_parameters() if p.grad is not None}


def gradients(task: Prepared, world: World, softmax: str) -> Gradients:
    """Give the gradients of one batch of the towers."""
    towers_config = replace(task.recipe.towers, softmax=softmax, positives_per_visit=2)
    task = replace(task, recipe=replace(task.recipe, towers=towers_config))
    torch.manual_seed(3)
    towers = TwoTower(task.recipe.model, task.dimensions, ItemTable(task.statics))
    early = task.visits.between(None, task.split.ranker_from_ms)
    phase = TowerSteps(task, towers, early, task.early_edges.counts, world).phase("towers", 1)
    batch = next(iter(phase.batches(torch.Generator().manual_seed(1))))
    towers.train()
    phase.loss(batch, torch.Generator().manual_seed(2)).backward()
    world.average_gradients(towers)
    return {n: p.grad.clone() for n, p in towers.named_parameters() if p.grad is not None}


class _LookUp(nn.Module):
    """A table that is looked up, and something on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(64, 8)
        self.head = nn.Linear(8, 1)
        self.local_rows: list[int] = []

    def forward(self, index: Tensor) -> Tensor:
        weight = self.table.weight
        self.local_rows.append(len(weight.to_local() if hasattr(weight, "to_local") else weight))
        return self.head(self.table(index)).squeeze(1)


def _phase(module: _LookUp, world: World) -> Phase:
    target = torch.randn(64, generator=torch.Generator().manual_seed(9))

    def batches(generator: torch.Generator) -> list[Tensor]:
        return list(torch.randint(0, 64, (5, 16), generator=generator))

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        own = batch[world.rank :: world.size]
        return ((module(own) - target[own]) ** 2).mean()

    return Phase(
        name="look up", module=module, batches=batches, loss=loss, epochs=2, learning_rate=0.05,
        weight_decay=0.01,
    )  # fmt: skip


def looked_up(world: World, engine: Engine) -> tuple[Gradients, int]:
    """Train a little; give the weights, whole, and the most rows of the table held meanwhile."""
    module = _LookUp()
    run = Run(seed=1, world=world, checkpoints=NoCheckpoints(), engine=engine)
    run.train(_phase(module, world))
    return {n: p.detach().clone() for n, p in module.named_parameters()}, max(module.local_rows)


class _StopError(Exception):
    """Stands for a killed run."""


class _Memory:
    """Keeps rank 0's state for all, as a shared folder does; stops the run after the first."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.stops = True

    def latest(self) -> State | None:
        return self.state

    def save(self, state: State, metrics: dict[str, float]) -> None:
        box = [state]
        dist.broadcast_object_list(box, src=0)
        self.state = box[0]
        if self.stops:
            self.stops = False
            raise _StopError


def resumed(world: World) -> Gradients:
    """Stop a run with spread tables after an epoch and go on with it."""
    kept, module = _Memory(), _LookUp()
    engine = Engine(shard_tables_mb=1e-6)
    try:
        run = Run(seed=1, world=world, checkpoints=kept, engine=engine)
        run.train(_phase(module, world))
    except _StopError:
        module = _LookUp()
        run = Run(seed=1, world=world, checkpoints=kept, engine=engine)
        run.train(_phase(module, world))
    return {n: p.detach().clone() for n, p in module.named_parameters()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
