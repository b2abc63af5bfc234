"""Source ``two_tower``: how near an item is to the user, against how near others are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.item_vectors import ItemVectors
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.source import Found, SourceInputs


class TwoTowerSource:
    """Nearest items by inner product. It alone knows items that were never interacted with.

    A score is a cosine in standard deviations from the user's mean over the catalogue. Towers that
    are trained further spread their cosines wider; so standardised the score keeps its meaning for
    a ranker that learned from the towers before. Mean and deviation come from the first two
    moments of the items' vectors, ``m`` and ``S``: ``u . m`` and ``sqrt(u S u)``.
    """

    name = "two_tower"
    knows_all = True

    def __init__(self) -> None:
        self._moments: tuple[ItemVectors, Tensor, Tensor] | None = None

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the nearest items, exactly; users of a narrow filter are held beside its items."""
        narrow = [(one.rows, users) for one, users in excluded.filters if one.rows is not None]
        if not narrow:
            value, index = self._nearest(inputs, inputs.user_vectors, count, excluded)
        else:
            size = len(inputs.user_vectors)
            value = inputs.user_vectors.new_full((size, count), -torch.inf)
            index = torch.zeros_like(value, dtype=torch.int64)
            others = torch.ones(size, dtype=torch.bool, device=value.device)
            for rows, users in narrow:
                others[users] = False
                theirs = _nearest_of(inputs, users, rows, count, excluded)
                for out, part in zip((value, index), theirs, strict=True):
                    out[users, : part.shape[1]] = part
            if others.any():
                users = others.nonzero().flatten()
                vectors = inputs.user_vectors[users]
                found = self._nearest(inputs, vectors, count, excluded.of(users))
                value[users], index[users] = found
        missing = value == -torch.inf
        return Found(
            index.masked_fill_(missing, 0),
            self._standardised(inputs, value).masked_fill_(missing, 0),
        )

    def _nearest(
        self, inputs: SourceInputs, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        """Give cosines and rows ``[B, count]`` of the items nearest to ``[B, D]``."""
        return best(excluded.mask(inputs.item_vectors.scores(vectors)), count)

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        local = inputs.item_vectors.local(index)
        vectors = F.embedding(local.place, local.vectors)
        cosine = torch.bmm(vectors, inputs.user_vectors.unsqueeze(2)).squeeze(2)
        return self._standardised(inputs, cosine)

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``."""
        return self._standardised(inputs, inputs.item_vectors.scores(inputs.user_vectors))

    def _standardised(self, inputs: SourceInputs, cosine: Tensor) -> Tensor:
        """Give ``[B, C]`` cosines less the mean, in deviations."""
        mean, deviation = inputs.once("two_tower moments", lambda: self._of_users(inputs))
        return (cosine - mean) / deviation

    def _of_users(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        """Give each user's mean and deviation over all items, ``[B, 1]``."""
        mean, covariance = self._of_items(inputs.item_vectors)
        users = inputs.user_vectors.double()
        variance = ((users @ covariance) * users).sum(dim=1, keepdim=True).clamp(min=0.0)
        deviation = variance.sqrt().clamp(min=1e-6)
        return (users @ mean).unsqueeze(1).float(), deviation.float()

    def _of_items(self, vectors: ItemVectors) -> tuple[Tensor, Tensor]:
        """Give ``[D]`` and ``[D, D]`` in float64, computed once for a table of vectors."""
        last = self._moments
        if last is None or last[0] is not vectors:
            every = vectors.decoded()[1:].double()
            mean = every.mean(dim=0)
            covariance = every.T @ every / len(every) - torch.outer(mean, mean)
            last = self._moments = vectors, mean, covariance
        return last[1], last[2]


def _nearest_of(
    inputs: SourceInputs, users: Tensor, rows: Tensor, count: int, excluded: Excluded
) -> tuple[Tensor, Tensor]:
    """Give cosines and rows ``[Bf, min(count, P)]`` of the nearest among the items ``[P]``."""
    local = inputs.item_vectors.local(rows)
    cosine = inputs.user_vectors[users] @ F.embedding(local.place, local.vectors).T
    gone = excluded.of(users).hits(rows.expand(len(users), -1))
    value, place = best(cosine.masked_fill_(gone, -torch.inf), count)
    return value, rows[place]
