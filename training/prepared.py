"""What fitting needs, as tensors: visits, edges of the user-item matrix, rounds of questions.

Axes: ``E`` visits or lists, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recsys.bundle.manifest import LoggedFeatures, Objective
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.features.history import ItemHistory, UserHistory
from recsys.models.encode import UserEncoding
from recsys.models.item_table import ItemStatics
from recsys.models.signature import Dimensions
from training.examples.lists import ListShards
from training.examples.stream import VisitShards
from training.ragged import RaggedTensor
from training.recipes import Recipe
from training.rounds import Context, QuestionRound

__all__ = ["Context", "Edges", "Prepared", "QuestionRound", "RaggedTensor", "Sources"]


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The user-item matrix as entries, sorted by user: what neighbours are fitted on."""

    user: Tensor
    item: Tensor
    weight: Tensor
    num_users: int
    counts: Tensor
    """``[N + 1]`` interactions of each item."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that fitting needs; a file of it travels to the workers."""

    recipe: Recipe
    objectives: tuple[Objective, ...]
    dimensions: Dimensions
    encoding: UserEncoding
    split: TimeSplit
    statics: ItemStatics
    available: Tensor
    """``[N + 1]`` bool: may be shown, by the log's latest word."""
    first_seen_ms: Tensor
    """``[N + 1]`` int64: before this an item was no candidate."""
    popular_weights: Tensor
    visits: VisitShards
    """What the towers learn from, on disk."""
    early_edges: Edges
    all_edges: Edges
    rounds: ListShards
    """What the ranker learns from, on disk: a round at a time."""
    activity: Tensor
    """``[N + 1, Fi]`` at the end of training."""

    def with_examples_in(self, root: Path) -> Prepared:
        """Give the same with its example shards in another folder, where they were moved to."""
        folder = root / self.visits.folder.name
        return replace(
            self,
            visits=replace(self.visits, folder=folder),
            rounds=replace(self.rounds, folder=folder),
        )

    def save(self, path: Path) -> None:
        """Write everything to one file."""
        torch.save(self, path)

    @staticmethod
    def load(path: Path) -> Prepared:
        """Read what ``save`` wrote (our own file: it may hold any class of ours)."""
        prepared = torch.load(path, weights_only=False)
        assert isinstance(prepared, Prepared)
        return prepared


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What stays with the driver: for evaluation and export."""

    catalogue: Catalogue
    interactions: Interactions
    users: UserHistory
    items: ItemHistory
    num_events: int
    log_positions: dict[str, int]
    logged_features: LoggedFeatures | None = None
    """What the ranker learns from that was logged at serving; None: its features are joined."""
