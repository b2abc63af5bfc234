"""What share of each kind of user's nearest items an index finds.

Kinds are kept apart because means hide: users whose histories lie in one place are found nearly
everything in few cells, users whose histories are scattered are not.

Axes: ``Q`` users of a kind, ``N`` items (row 0 is padding), ``D`` embedding, ``k`` wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.retrieval.vector_index import VectorIndex

_AT_ONCE = 32
_NOWHERE = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class UserKind:
    """Users an index is measured on."""

    name: str
    vectors: Tensor
    """``[Q, D]`` of the user tower, on the CPU."""
    is_held: bool = True
    """The index must find the wanted share for them; else it is only told."""


@dataclass(frozen=True, kw_only=True)
class KindRecall:
    """What was found for a kind of user."""

    name: str
    num_users: int
    recall: float
    """Mean share of the exact ``k`` nearest."""
    is_held: bool


class Truth:
    """The exact ``k`` nearest of kinds of users, found once."""

    def __init__(self, vectors: Tensor, kinds: Sequence[UserKind], k: int) -> None:
        """Search ``[N + 1, D]`` exactly.

        Raises:
            InputError: when nobody is there to measure on.
        """
        self.kinds = tuple(kind for kind in kinds if len(kind.vectors))
        if not any(kind.is_held for kind in self.kinds):
            raise InputError(
                "an approximate index is set on users, found none that it must hold for; give "
                "vectors of a few hundred"
            )
        self.k = min(k, len(vectors) - 1)
        self._vectors = vectors
        self._nearest = [_exact(vectors, kind.vectors, self.k) for kind in self.kinds]

    def recall(self, index: VectorIndex) -> tuple[KindRecall, ...]:
        """Give what a search for ``k`` finds of each kind, as it is set now."""
        return tuple(
            KindRecall(
                name=kind.name, num_users=len(kind.vectors),
                recall=recall(index, self._vectors, kind.vectors, nearest), is_held=kind.is_held,
            )
            for kind, nearest in zip(self.kinds, self._nearest, strict=True)
        )  # fmt: skip

    def lowest_by_oversample(self, index: VectorIndex, oversamples: Sequence[float]) -> list[float]:
        """Give the recall of the worst kind that is held, about, for each of ``oversamples``.

        One search tells of all: what a smaller one gives is the beginning of what the largest
        gives, but for equals by four-bit codes at its end (three in a thousand).
        """
        lowest = [1.0] * len(oversamples)
        for kind, nearest in zip(self.kinds, self._nearest, strict=True):
            if not kind.is_held:
                continue
            hits = [0] * len(oversamples)
            for users, wanted in _blocks(kind.vectors, nearest):
                place = _places(index.nearby(users, round(max(oversamples) * self.k)), wanted)
                for at, oversample in enumerate(oversamples):
                    hits[at] += int((place < round(oversample * self.k)).sum())
            lowest = [min(low, h / nearest.numel()) for low, h in zip(lowest, hits, strict=True)]
        return lowest


def recall(index: VectorIndex, vectors: Tensor, users: Tensor, truth: Tensor) -> float:
    """Give the mean share of the ``[Q, k]`` true rows among the ``k`` best of what is found."""
    hits = 0
    for block, wanted in _blocks(users, truth):
        rows = index.search(block, truth.shape[1])
        score = torch.bmm(vectors[rows], block.unsqueeze(2)).squeeze(2)
        score.masked_fill_(rows == 0, -torch.inf)
        best = rows.gather(1, score.topk(min(truth.shape[1], rows.shape[1]), dim=1).indices)
        hits += int((_places(best, wanted) != _NOWHERE).sum())
    return hits / truth.numel()


def _places(rows: Tensor, wanted: Tensor) -> Tensor:
    """Give the place ``[B, k]`` of each wanted row in ``[B, M]``, or ``_NOWHERE``."""
    order = rows.argsort(dim=1)
    ascending = rows.gather(1, order)
    at = torch.searchsorted(ascending, wanted).clamp_(max=rows.shape[1] - 1)
    return torch.where(ascending.gather(1, at) == wanted, order.gather(1, at), _NOWHERE)


def _exact(vectors: Tensor, users: Tensor, k: int) -> Tensor:
    found = [
        (block @ vectors[1:].T).topk(k, dim=1).indices + 1 for block in torch.split(users, _AT_ONCE)
    ]
    return torch.cat(found)


def _blocks(users: Tensor, truth: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(users, _AT_ONCE), torch.split(truth, _AT_ONCE), strict=True)
