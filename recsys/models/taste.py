"""What a user takes more often than others do, by what items are made of; nothing is learned.

A click on what everybody clicks says little of a user, and so does leaving what few take. So each
item of the history speaks by how far the user's choice was from what was to be expected of it, and
a candidate is held beside the history from several sides (``Aspect``): genres, makers, words. Of
each side the answer is a statistic: what speaks for the candidate, over how far chance alone would
have taken it.

What it costs: two sums of vectors once per user, two products of vectors per candidate, however
long the history.

Axes: ``B`` users, ``C`` candidates, ``H`` history, ``N`` items, ``A`` aspects, ``S`` size of the
vectors of all aspects.
Source: Rao 1948, "Large sample tests of statistical hypotheses": the score statistic of a logistic
regression of the user's choices on their likeness to the candidate, at the point where it makes no
difference. We differ in the variance: likeness stands in it unsquared, which lets it be summed once
per user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.config import Aspect
from recsys.models.serving_model import UserContext

PRIOR_COUNT = 10.0
"""Exposures that the rate over the user's whole history is worth for an item of it."""
USER_PRIOR = 2.0
"""Choices that a user like all others is worth."""
VARIANCE_FLOOR = 0.2
"""Keeps a side of which the history says next to nothing near zero."""
_LEAST, _MOST = 0.01, 0.95


class Taste(NamedTuple):
    """What is computed once per user, ``[B, S]`` each."""

    liked: Tensor
    """Sum of the history's vectors, weighed by how far the choice was above the expected one."""
    spread: Tensor
    """The same sum, weighed by the variance of the choice."""


def surprise(user: UserContext, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Give ``[B, H]`` choices less what was expected of them, and the variances; 0 pads.

    An item met more than once is one that was chosen (``content.py``). Expected is the item's own
    rate, drawn to that of the whole history where few have met it, times how readily this user
    chooses: a user who takes everything says as little as one who takes nothing.

    Args:
        user: Context.
        counts: ``[B, H, 2]`` of each item of the history: how often it was taken, how often shown.
    """
    met = (user["history_index"] != 0).to(counts.dtype)
    chosen = (user["history_count"] >= 1.5).to(counts.dtype) * met
    taken, shown = (counts * met.unsqueeze(2)).unbind(dim=2)
    prior = (taken.sum(1, keepdim=True) + 1.0) / (shown.sum(1, keepdim=True) + PRIOR_COUNT)
    rate = (taken + PRIOR_COUNT * prior) / (shown + PRIOR_COUNT) * met
    ready = (chosen.sum(1, keepdim=True) + USER_PRIOR) / (rate.sum(1, keepdim=True) + USER_PRIOR)
    expected = (rate * ready).clamp(_LEAST, _MOST) * met
    return chosen - expected, expected * (1.0 - expected)


def taste_of(vectors: Tensor, user: UserContext, counts: Tensor) -> Taste:
    """Sum ``[N + 1, S]`` vectors over the histories; ``counts`` as in ``surprise``."""
    history = user["history_index"].long()
    # Columns in which nobody has an item are left out.
    used = (history != 0).any(dim=0).nonzero()
    begin = int(used[0]) if len(used) else history.shape[1] - 1
    difference, variance = surprise(user, counts)

    def summed(weight: Tensor) -> Tensor:
        return F.embedding_bag(
            history[:, begin:], vectors, mode="sum",
            per_sample_weights=weight[:, begin:].to(vectors.dtype),
        )  # fmt: skip

    return Taste(summed(difference), summed(variance))


def taste_match(vectors: Tensor, aspects: Sequence[Aspect], taste: Taste, index: Tensor) -> Tensor:
    """Give ``[B, C, A]`` for candidates ``[B, C]``: about 0 ± 1 where choices were chance.

    No history, or nothing known of the candidate, gives 0.
    """
    found, begin = [], 0
    for aspect in aspects:
        part = slice(begin, begin := begin + aspect.size)
        history = torch.stack([taste.liked[:, part], taste.spread[:, part]], dim=2)
        product = F.embedding(index, vectors[:, part]) @ history
        variance = product[..., 1].clamp(min=0.0) + VARIANCE_FLOOR
        found.append(product[..., 0] / variance.sqrt())
    return torch.stack(found, dim=2)
