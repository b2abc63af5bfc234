"""A candidate source: one opinion on every item of the catalogue, for every user of a batch.

Scores are dense, ``[B, N + 1]``: at up to some hundred thousand items scoring all of them is one
matrix product or one scatter, exact, and gives every source's score of every candidate, which the
ranker wants anyway. Higher is better; 0 means "no opinion" for a source that never goes below.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding, ``H`` history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.models.serving_model import UserContext


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInputs:
    """What sources may look at."""

    user: UserContext
    user_vectors: Tensor
    """``[B, D]`` from the user tower."""
    item_vectors: ItemVectors
    """``[N + 1, D]`` from the item tower, in the bundle's precision."""
    item_activity: Tensor
    """``[N + 1, Fi]`` moving item features in force."""
    _shared: dict[object, tuple[Tensor, ...]] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Give what ``make`` gives; sources that share a ``key`` compute it once a call."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]


class CandidateSource(Protocol):
    """Scores all items."""

    @property
    def name(self) -> str:
        """Name in ``Dimensions.sources``."""

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]`` float32; what stands in column 0 is ignored."""
