"""How a next-item model is trained: nothing in it knows which data set it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from recsys.errors import ConfigurationError
from recsys.models.config import SequenceConfig
from training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class NextItemRecipe:
    """One run."""

    name: str
    seed: int = 7
    size: int = 128
    """D."""
    model: SequenceConfig = field(
        default_factory=lambda: SequenceConfig(max_length=64, dropout=0.5)
    )
    loss: Literal["softmax", "sampled_softmax", "gbce", "binary"] = "softmax"
    """``softmax`` compares with the whole catalogue; the others with draws from it."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all items; of ``softmax`` alone."""
    num_negatives: int = 256
    """Of the sampled losses: uniform draws, a pool for the batch (softmax) or for each place."""
    calibration: float = 0.75
    """t of ``gbce``."""
    epochs: int = 22
    """At most; the learning rate's one cycle is laid over them."""
    batch_users: int = 256
    """Sequences in a step, over all workers."""
    learning_rate: float = 1.2e-3
    """Peak; one cycle over all steps."""
    weight_decay: float = 0.0
    """AdamW's."""
    validation_users: int = 5_000
    """Users, drawn by the seed, whose second last event each epoch is judged by."""
    neighbour_shrinkage: float = 5.0
    """Of the item-kNN that is a baseline and the second opinion of the fused list."""
    engine: Engine = field(default_factory=lambda: Engine(precision="bfloat16", patience=5))


def standard() -> NextItemRecipe:
    """Give the run of the published figures: some minutes on two cores for 200,000 events."""
    return NextItemRecipe(name="standard")


def debug() -> NextItemRecipe:
    """Give a run of seconds, to see that everything fits together."""
    return replace(
        standard(), name="debug", size=16, epochs=2, batch_users=32,
        model=SequenceConfig(max_length=16, dropout=0.1),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], NextItemRecipe]] = {"standard": standard, "debug": debug}


def find_recipe(name: str) -> NextItemRecipe:
    """Give a recipe by name. Raises ConfigurationError when there is none."""
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe {name!r} (found {', '.join(RECIPES)})")
    return RECIPES[name]()
