"""Source ``two_tower``: how near an item is to the user, against how near others are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.moments import Moments
from recsys.retrieval.nearest_items import NearestItems, is_short
from recsys.retrieval.source import Found, SourceInputs

if TYPE_CHECKING:
    from recsys.retrieval.live_index import LiveIndex
    from recsys.retrieval.vector_index import VectorIndex  # faiss, where there is one

_OF_ONE = "two_tower moments of one"
"""What a call's mean and deviation are kept by, where it is of one user."""


class TwoTowerSource:
    """Nearest items by inner product. It alone knows items that were never interacted with.

    A score is a cosine in standard deviations from the user's mean over the catalogue. Towers that
    are trained further spread their cosines wider; so standardised the score keeps its meaning for
    a ranker that learned from the towers before. Mean and deviation come from the first two
    moments of the items' vectors (``moments.py``).
    """

    name = "two_tower"
    knows_all = True
    rounds_by_shape = True

    def __init__(self, index: VectorIndex | None = None) -> None:
        """Search exactly, or by ``index``; what it may not find enough of is searched exactly."""
        self.nearest = NearestItems(index)
        self._moments: tuple[ItemVectors, Moments] | None = None

    @property
    def index(self) -> LiveIndex | None:
        """What is searched, with the rows beside it; ``None``: all is searched exactly."""
        return self.nearest.index

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the nearest items; users of a narrow filter are held beside its items."""
        items, users = inputs.item_vectors, inputs.user_vectors
        if self.index is not None and len(users) == 1 and not excluded.filters:
            found = self._search_for_one(inputs, count, excluded)
            if found is not None:
                return found
        value, index = self.nearest.of_many(items, users, count, excluded)
        score = self._standardised(inputs, value)
        if is_short(value):
            missing = value == -torch.inf
            index, score = index.masked_fill(missing, 0), score.masked_fill(missing, 0)
        return Found(index, score)

    def before_moving(self, vectors: ItemVectors) -> None:
        """Take the moments: a score means the same however many items come or change."""
        self._of_items(vectors)

    def moved(self, index: Tensor) -> None:
        """Search these items exactly, beside the index."""
        self.nearest.moved(index)

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        cosine = self.nearest.products(inputs.item_vectors, inputs.user_vectors, index)
        return self._standardised(inputs, cosine)

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``."""
        return self._standardised(inputs, inputs.item_vectors.scores(inputs.user_vectors))

    def _search_for_one(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found | None:
        """Search by the index without a tensor between; None: all must be searched."""
        items, users = inputs.item_vectors, inputs.user_vectors
        # Before the index is looked into: after it the cache has forgotten numpy and the moments.
        mean, deviation = inputs.once(
            _OF_ONE, lambda: self._of_items(items).of_one(users.numpy()[0])
        )
        nearest = self.nearest.of_one(items, users, count, excluded)
        if nearest is None:
            return None
        value, row = nearest
        value -= mean
        value /= deviation
        return Found(torch.from_numpy(row), torch.from_numpy(value))

    def _standardised(self, inputs: SourceInputs, cosine: Tensor) -> Tensor:
        """Give ``[B, C]`` cosines less the mean, in deviations."""
        mean, deviation = self._moments_of(inputs)
        return (cosine - mean).div_(deviation)

    def _moments_of(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        """Give each user's mean and deviation ``[B, 1]``."""
        return inputs.once("two_tower moments", lambda: self._new_moments(inputs))

    def _new_moments(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        users, of = inputs.user_vectors, self._of_items(inputs.item_vectors)
        if len(users) != 1 or users.device.type != "cpu":
            return of.of(users)
        both = inputs.once(_OF_ONE, lambda: of.of_one(users.numpy()[0]))
        mean, deviation = (torch.full((1, 1), moment, dtype=torch.float32) for moment in both)
        return mean, deviation

    def _of_items(self, vectors: ItemVectors) -> Moments:
        """Give the moments of a table of vectors, computed once."""
        last = self._moments
        if last is None or last[0] is not vectors:
            last = self._moments = vectors, Moments(vectors)
        return last[1]
