"""What made an item's score: integrated gradients of the ranker, from knowing nothing.

At the start of the line the user has no activity and no vector, the item no moving features, and
nothing speaks for the two together (no source, no history, the usual price); at its end stands
what the model was given. Tokens, the item's own vector and what of the history is attended to are
held as they are: they belong to the base. The contributions of a score sum to what it is above it.

Source: Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", eq. 1 and
Proposition 1 (completeness). We differ in where the gradients are taken: at ``t⁴`` for
Gauss-Legendre points ``t``, which are dense where logarithms of counts bend most; the integral is
the same.

Axes: ``K`` items, ``P`` points, ``R = K · P`` rows, ``Fu`` user features, ``Fi`` item features,
``X`` cross features, ``D`` embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.models.cross_features import cross_feature_names
from recsys.models.ranker import Ranker
from recsys.models.serving_model import Candidates, UserContext

USER_VECTOR = "user_vector"
"""What the user tower says, as one feature: its single numbers mean nothing."""
_POINTS = 256
_POWER = 4
_ITEMS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """Contributions to the blended scores (log-odds) of ``K`` items."""

    names: tuple[str, ...]
    value: Tensor
    """``[K, len(names)]`` what the model was given; NaN for ``USER_VECTOR``."""
    contribution: Tensor
    """``[K, len(names)]``."""
    base: Tensor
    """``[K]`` the score knowing nothing."""
    score: Tensor
    """``[K]``."""

    @property
    def unexplained(self) -> Tensor:
        """``[K]`` what the contributions miss of ``score - base``: error of the quadrature."""
        return self.score - self.base - self.contribution.sum(1)


@dataclass(frozen=True, kw_only=True)
class RankerInputs:
    """What the ranker of one user is given."""

    user: UserContext
    """``signature.user_context``, batch axis 1."""
    user_vectors: Tensor
    """``[1, D]``."""
    item_vectors: Tensor
    """``[N + 1, D]``."""
    item_activity: Tensor
    """``[N + 1, Fi]``."""
    candidates: Candidates
    """``[1, K]``."""


def attribute(
    ranker: Ranker,
    objective_weights: Tensor,
    given: RankerInputs,
    *,
    user_names: Sequence[str],
    item_names: Sequence[str],
    cross_names: Sequence[str],
) -> Attributed:
    """Attribute the blended scores of the candidates to the features they were made of."""
    index = given.candidates.item_index[0].long()
    user = {name: tensor.clone() for name, tensor in given.user.items()}
    with torch.no_grad():
        candidates = Candidates(
            given.candidates.item_index.clone(), given.candidates.source_score.clone()
        )
        cross = ranker.cross_features(user, candidates, given.item_activity)[0]
    ends = (
        user["user_dense"].expand(len(index), -1),
        given.user_vectors.clone().expand(len(index), -1),
        given.item_activity[index],
        cross,
    )
    score = _Score(ranker, objective_weights, user, given.item_vectors.clone())
    parts = []
    for begin in range(0, len(index), _ITEMS_AT_ONCE):
        some = slice(begin, begin + _ITEMS_AT_ONCE)
        parts.append(_integrate(score, index[some], [end[some] for end in ends]))
    dense, vector, activity, crossing = (torch.cat(part) for part in zip(*parts, strict=True))
    with torch.no_grad():
        at_end = score(index, *ends)
        at_start = score(index, *(torch.zeros_like(end) for end in ends))
    unknown = torch.full((len(index), 1), torch.nan)
    return Attributed(
        names=(
            *(f"user.{name}" for name in user_names),
            *(f"item.{name}" for name in item_names),
            *cross_names,
            USER_VECTOR,
        ),
        value=torch.cat([ends[0], ends[2], ends[3], unknown], dim=1),
        contribution=torch.cat([dense, activity, crossing, vector.sum(1, keepdim=True)], dim=1),
        base=at_start,
        score=at_end,
    )


class _Score:
    """The blended score as a function of one row of inputs each."""

    def __init__(
        self, ranker: Ranker, weights: Tensor, user: UserContext, item_vectors: Tensor
    ) -> None:
        self._ranker, self._weights = ranker, weights
        self._user, self._item_vectors = user, item_vectors

    def __call__(
        self, index: Tensor, dense: Tensor, vector: Tensor, activity: Tensor, cross: Tensor
    ) -> Tensor:
        """Give ``[R]`` of items ``index`` ``[R]``."""
        num_rows = len(index)
        user = {
            name: tensor.expand(num_rows, *tensor.shape[1:]) for name, tensor in self._user.items()
        } | {"user_dense": dense}
        items = self._ranker.item_half(activity, self._item_vectors, rows=index)
        output = self._ranker.combine(
            self._ranker.user_half(user, vector, items),
            items,
            torch.arange(num_rows).unsqueeze(1),
            cross.unsqueeze(1),
            item_index=index.unsqueeze(1),
        )
        return (output.order @ self._weights)[:, 0]


def _integrate(score: _Score, index: Tensor, ends: Sequence[Tensor]) -> list[Tensor]:
    """Give the contributions to the score of each item, shaped as ``ends``."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    t = (nodes + 1.0) / 2.0
    at = torch.from_numpy(t**_POWER).float()
    weight = torch.from_numpy(weights / 2.0 * _POWER * t ** (_POWER - 1)).float()
    rows = index.repeat_interleave(_POINTS)
    fraction = at.repeat(len(index)).unsqueeze(1)
    inputs = [(end.repeat_interleave(_POINTS, dim=0) * fraction).requires_grad_() for end in ends]
    with torch.enable_grad():
        total = score(rows, *inputs).sum()
        gradients = torch.autograd.grad(total, inputs)
    return [
        end * torch.einsum("kpf,p->kf", gradient.reshape(len(index), _POINTS, -1), weight)
        for end, gradient in zip(ends, gradients, strict=True)
    ]


def names_of_crosses(ranker: Ranker, sources: Sequence[str], category: Sequence[str]) -> list[str]:
    """Give the names of the cross features, in order."""
    return cross_feature_names(
        sources, category,
        has_content=ranker.table.has_content,
        aspects=["+".join(aspect.keys) for aspect in ranker.config.aspects],
    )  # fmt: skip
