"""What fitting needs, as tensors: visits, edges of the user-item matrix, rounds of questions.

Axes: ``E`` visits or lists, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.bundle.manifest import Objective
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.features.batch import Ragged
from recsys.features.history import ItemHistory, UserHistory
from recsys.models.encode import UserEncoding
from recsys.models.item_table import ItemStatics
from recsys.models.signature import Dimensions
from training.recipes import Recipe

Context = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class RaggedTensor:
    """Rows of unequal length."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, ragged: Ragged) -> RaggedTensor:
        """Take over a NumPy one."""
        return cls(
            values=torch.from_numpy(np.ascontiguousarray(ragged.values)).long(),
            offsets=torch.from_numpy(ragged.offsets),
        )

    def padded(self, rows: Tensor) -> Tensor:
        """Give ``[len(rows), longest]`` values, 0 pads."""
        begin = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begin
        place = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = place < lengths.unsqueeze(1)
        source = (begin.unsqueeze(1) + place).clamp(max=max(len(self.values) - 1, 0))
        return torch.where(mask, self.values[source], 0)


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
class QuestionRound:
    """Questions that share one state of the items' moving features."""

    as_of_ms: int
    activity: Tensor
    """``[N + 1, Fi]``."""
    context: Context
    """``[E, ...]`` user tensors."""
    labels: tuple[RaggedTensor, ...]
    """One for each objective: item rows that were taken. Empty when ``shown`` is there."""
    weight: Tensor
    """``[E]``: how many users each question stands for."""
    shown: Tensor | None = None
    """``[E, C]`` shown items; None: candidates are to be retrieved."""
    shown_position: Tensor | None = None
    """``[E, C]`` place each was displayed at, from 0; -1 pads."""
    shown_label: Tensor | None = None
    """``[E, C, O]``."""


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
    visit_context: Context
    visit_positives: RaggedTensor
    visit_moment_ms: Tensor
    """``[E]`` int64: one millisecond before the visit's first item."""
    visit_is_early: Tensor
    """``[E]`` bool: before the ranker's part begins."""
    early_edges: Edges
    all_edges: Edges
    rounds: tuple[QuestionRound, ...]
    activity: Tensor
    """``[N + 1, Fi]`` at the end of training."""

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
