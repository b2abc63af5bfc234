"""A candidate source: an opinion on items, of which it gives the best and, asked for, any.

Short lists are for large catalogues: a call then costs the search of the towers and, beside it,
nothing that grows with the catalogue. Of a small one, all items are scored at once.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding, ``H`` history, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.models.serving_model import UserContext
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.row_changes import RowChanges

T = TypeVar("T")


class Found(NamedTuple):
    """A source's own best items, best first."""

    item: Tensor
    """``[B, C]`` int64, distinct in a row, 0 pads."""
    score: Tensor
    """``[B, C]`` float32; what stands at padding is 0 or below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInputs:
    """What sources may look at."""

    user: UserContext
    user_vectors: Tensor
    """``[B, D]`` from the user tower."""
    item_vectors: ItemVectors
    """``[N + 1, D]`` from the item tower, in the bundle's precision."""
    item_activity: Tensor
    """``[N + 1, Fi]`` moving item features in force. Other memory means all may be others."""
    item_changes: RowChanges = field(default_factory=RowChanges)
    """Rows of ``item_activity`` that were written in place since, that were added behind the
    others, or whose availability was."""
    _shared: dict[object, object] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Give what ``make`` gives; what shares a ``key`` is computed once a call."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])


class CandidateSource(Protocol):
    """Finds items, and scores those that others found. Higher is better."""

    @property
    def name(self) -> str:
        """Name in ``Dimensions.sources``."""

    @property
    def knows_all(self) -> bool:
        """Whether every item can be found; else only those with a score above 0."""

    @property
    def rounds_by_shape(self) -> bool:
        """Whether last bits of ``all_scores`` depend on how many items and users there are; those
        of ``scores`` never do."""

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the ``count`` best items that are not excluded, fewer where there are fewer."""

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` float32 scores of items; what stands at padding (0) is ignored."""

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]`` float32; what stands in column 0 is ignored."""


@runtime_checkable
class FollowsVectors(Protocol):
    """A source that keeps something made of the items' vectors."""

    def before_moving(self, vectors: ItemVectors) -> None:
        """Make what is to stay as the bundle's own vectors have it; harmless when repeated."""

    def moved(self, index: Tensor) -> None:
        """Take note that the items ``[M]`` have other vectors now, or are new."""


def strongest_of(index: Tensor, score: Tensor, count: int, excluded: Excluded) -> Found:
    """Give the ``count`` best of ``[B, C]`` items with a score above 0 that are not excluded."""
    allowed = score.masked_fill(excluded.hits(index) | (score <= 0), 0.0)
    value, place = best(allowed, count)
    return Found(index.gather(1, place).masked_fill_(value == 0, 0), value)
