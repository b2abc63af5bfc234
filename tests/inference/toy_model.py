"""A small serving model whose answers can be worked out by hand: dot products of given vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from recsys.models.created_items import CreatedItems
from recsys.models.serving_model import Candidates, Ranked, UserContext
from recsys.models.signature import Dimensions
from recsys.retrieval.item_filter import ItemFilters

TOY_DIMENSIONS = Dimensions(
    history_length=8,
    num_tokens=4,
    num_user_features=3,
    num_categories=3,
    num_category_features=2,
    num_item_features=2,
    objectives=("click", "purchase"),
    sources=("two_tower", "popular"),
)


class ToyItems:
    """What moves of the items."""

    def __init__(self, num_items: int, num_features: int, filters: ItemFilters | None) -> None:
        self.created = CreatedItems(num_items)
        self.available = torch.arange(num_items + 1) > 0
        self.activity = torch.zeros(num_items + 1, num_features)
        self.activity_as_of_ms = 0
        self.filters = filters

    def activity_of(self, item_index: Tensor) -> Tensor:
        return self.activity[item_index.long()]

    def set_available(self, available: Tensor) -> None:
        self.available = available

    def change(
        self, item_index: Sequence[int], available: Sequence[bool],
        tokens: Mapping[int, Iterable[str]],
    ) -> None:  # fmt: skip
        self.available[list(item_index)] = torch.tensor(available)
        if tokens and self.filters is not None:
            self.filters.change(tokens)

    def set_activity(self, activity: Tensor, as_of_ms: int) -> None:
        self.activity = activity
        self.activity_as_of_ms = as_of_ms

    def change_activity(self, item_index: Tensor, activity: Tensor) -> None:
        self.activity[item_index.long()] = activity

    def confirm_activity(self, as_of_ms: int) -> None:
        self.activity_as_of_ms = as_of_ms


class ToyModel:
    """Users are the mean of their history's item vectors; popularity falls with the row."""

    def __init__(
        self, num_items: int = 40, *, size: int = 16, dimensions: Dimensions = TOY_DIMENSIONS,
        item_filters: ItemFilters | None = None,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(7)
        vectors = torch.randn(num_items + 1, size, generator=generator)
        vectors[0] = 0.0
        self.vectors = torch.nn.functional.normalize(vectors, dim=1)
        self.popularity = 1.0 / torch.arange(1, num_items + 2).float()
        self.dimensions = dimensions
        self.num_items = num_items
        self.items = ToyItems(num_items, dimensions.num_item_features, item_filters)

    def _scores(self, user: UserContext) -> tuple[Tensor, Tensor]:
        history = user["history_index"].long()
        mask = (history != 0).float()
        vectors = self.vectors[history].sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        return vectors @ self.vectors.T, self.popularity.expand(len(history), -1)

    def prepare(self, user: UserContext) -> UserContext:
        return user

    def retrieve(
        self, user: UserContext, *, num_candidates: int, exclude_index: Tensor,
        exclude_history: Tensor, filters: Tensor | None = None,
    ) -> Candidates:  # fmt: skip
        tower, popular = self._scores(user)
        fused = tower + 0.1 * popular
        fused[:, ~self.items.available] = -torch.inf
        rows = torch.arange(len(fused)).unsqueeze(1)
        fused[rows, exclude_index.long()] = -torch.inf
        history = torch.where(exclude_history, user["history_index"], 0)
        fused[rows, history.long()] = -torch.inf
        if filters is not None and filters.any():
            assert self.items.filters is not None, "these items have no tokens"
            for row, passing in zip(fused, self.items.filters.of(filters), strict=True):
                if passing is not None:
                    row[passing.refused] = -torch.inf
        score, index = fused.topk(min(num_candidates, self.num_items), dim=1)
        index = index.masked_fill(score == -torch.inf, 0)
        return self.score_sources(user, index.int())

    def score_sources(self, user: UserContext, candidate_index: Tensor) -> Candidates:
        index = candidate_index.long()
        scores = torch.stack([s.gather(1, index) for s in self._scores(user)], dim=2)
        return Candidates(candidate_index, scores)

    def rank(self, user: UserContext, candidates: Candidates) -> Ranked:
        moving = self.items.activity[candidates.item_index.long()].sum(2)
        logit = candidates.source_score.sum(2) + moving
        objectives = torch.stack([logit.sigmoid(), (logit - 1).sigmoid()], dim=2)
        padding = candidates.item_index == 0
        return Ranked(objectives.mean(2).masked_fill(padding, -torch.inf), objectives)

    def similar(self, item_index: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        cosine = self.vectors[item_index.long()] @ self.vectors.T
        cosine[:, 0] = -torch.inf
        cosine[torch.arange(len(cosine)), item_index.long()] = -torch.inf
        score, index = cosine.topk(min(k, self.num_items), dim=1)
        return index.masked_fill(score == -torch.inf, 0).int(), score

    def item_vectors(self) -> Tensor:
        return self.vectors
