"""One seed: train, choose on the validation events, test once.

The test is looked at in one function, ``_judge``, after everything is chosen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch

from recsys.models.next_item import ItemAttributes, NextItemModel
from training.leave_one_out.protocol import HeldOut, Quality, ndcg_at_10, quality_of
from training.leave_one_out.recipe import NextItemRecipe
from training.leave_one_out.scorers import (
    MAX_EASE_ITEMS,
    Ease,
    Neighbours,
    fused_scores,
    kept,
    log_probabilities,
    model_scores,
    popular_scores,
    shares_of_best,
)
from training.leave_one_out.sequences import Sequences
from training.leave_one_out.steps import NextItemSteps
from training.loop import Checkpoints, Run
from training.progress import Progress
from training.world import World

DECAYS = (1.0, 0.8, 0.6)
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
EASE_PENALTY = 500.0
"""That of its authors' sparser data sets; not tuned."""
_TUNING_USERS = 5_000
_TUNING_SCORES = 64_000_000
"""Scores that are kept to try weights on: 256 MB, two or three times over."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one seed."""

    seed: int
    validation: dict[str, Quality]
    """By recommender: ``towers`` (the model alone), ``fused``, and the baselines."""
    test: dict[str, Quality]
    chosen: dict[str, float]
    """What was chosen on validation events."""
    curve: list[tuple[str, int, float]]
    cpu_s: float
    """Processor time of training, validation of each epoch included."""
    wall_s: float
    targets_per_s: float
    """Places predicted in training a second of wall clock, validation not counted."""
    stage_s: dict[str, float] = field(default_factory=dict)


def run_seed(
    sequences: Sequences,
    attributes: ItemAttributes | None,
    recipe: NextItemRecipe,
    *,
    world: World,
    checkpoints: Checkpoints,
    progress: Progress,
    with_baselines: bool = True,
) -> Outcome:
    """Train with ``recipe.seed``, choose, and judge."""
    validation, rng = HeldOut.of(sequences, 2), np.random.default_rng(recipe.seed)
    past = sequences.until(2)
    with progress.stage("neighbours"):
        neighbours = Neighbours(
            past, sequences.num_items, shrinkage=recipe.neighbour_shrinkage
        )  # fmt: skip
    begin_cpu, begin = time.process_time(), time.perf_counter()
    with progress.stage("train"):
        model, curve, rate = _train(
            sequences, attributes, recipe, validation, world, checkpoints, progress
        )
    cpu_s, wall_s = time.process_time() - begin_cpu, time.perf_counter() - begin

    with progress.stage("choose"):
        decay, weight = _choose_fusion(model, neighbours, validation, world)
        chosen = {"neighbour_decay": decay, "neighbour_weight": weight}
    ease: Ease | None = None
    if with_baselines and sequences.num_items <= MAX_EASE_ITEMS:
        with progress.stage("EASE"):
            ease = Ease(past, sequences.num_items, penalty=EASE_PENALTY)

    def judged(held_out: HeldOut) -> dict[str, Quality]:
        history = held_out.history
        towers = model_scores(model, history, world)
        near = neighbours.scores(history, decay=decay)
        scores = {"fused": fused_scores(towers, near, weight=weight), "towers": towers}
        if with_baselines:
            scores["item_knn"] = near
            if ease is not None:
                scores["ease"] = ease.scores(history)
            scores["popular"] = popular_scores(past, sequences.num_items)
        return {name: quality_of(held_out.ranks(of), rng=rng) for name, of in scores.items()}

    with progress.stage("judge"):
        on_validation = judged(validation)
        on_test = judged(HeldOut.of(sequences, 1))
    return Outcome(
        seed=recipe.seed, validation=on_validation, test=on_test, chosen=chosen, curve=curve,
        cpu_s=cpu_s, wall_s=wall_s, targets_per_s=rate, stage_s=dict(progress.seconds),
    )  # fmt: skip


def _train(
    sequences: Sequences,
    attributes: ItemAttributes | None,
    recipe: NextItemRecipe,
    validation: HeldOut,
    world: World,
    checkpoints: Checkpoints,
    progress: Progress,
) -> tuple[NextItemModel, list[tuple[str, int, float]], float]:
    torch.manual_seed(recipe.seed)
    model = NextItemModel(
        recipe.model, size=recipe.size, num_items=sequences.num_items, attributes=attributes
    ).to(world.device)
    steps = NextItemSteps(recipe, model, sequences.until(2), world)
    watched = validation.some(recipe.validation_users, np.random.default_rng(recipe.seed))
    validating_s = [0.0]
    found: list[float] = []

    def validate() -> float:
        begin = time.perf_counter()
        with torch.autocast(world.device.type, enabled=False):
            found.append(ndcg_at_10(watched.ranks(model_scores(model, watched.history, world))))
        validating_s[0] += time.perf_counter() - begin
        progress.console.print(f"    validation NDCG@10 {found[-1]:.4f}")
        return -found[-1]

    def told(phase: str, epoch: int, epochs: int, loss: float) -> None:
        progress.console.print(f"  epoch {epoch + 1} of {epochs}, loss {loss:.4f}")

    run = Run(
        seed=recipe.seed, world=world, checkpoints=checkpoints, engine=recipe.engine, on_epoch=told
    )
    begin = time.perf_counter()
    run.train(steps.phase(validate))
    took_s = time.perf_counter() - begin - validating_s[0]
    epochs = sum(name == "next item" for name, _, _ in run.curve)
    return model, run.curve, steps.num_targets * epochs / max(took_s, 1e-9)


def _choose_fusion(
    model: NextItemModel, neighbours: Neighbours, validation: HeldOut, world: World
) -> tuple[float, float]:
    """Give the decay and the weight with the best NDCG@10 on some users' validation events."""
    most = max(_TUNING_SCORES // (validation.num_items + 1), 1)
    tuning = validation.some(min(_TUNING_USERS, most), np.random.default_rng(0))
    num_users = len(tuning.target)
    towers = kept(log_probabilities(model_scores(model, tuning.history, world)), num_users)
    found: list[tuple[float, float, float]] = []
    for decay in DECAYS:
        near = shares_of_best(neighbours.scores(tuning.history, decay=decay))
        shares = kept(near, num_users)
        for weight in WEIGHTS:
            ranks = tuning.ranks(lambda rows, s=shares, w=weight: towers(rows) + w * s(rows))
            found.append((ndcg_at_10(ranks), decay, weight))
    _, decay, weight = max(found)
    return decay, weight
