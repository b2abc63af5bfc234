"""Several opinions to one candidate list: a blend, with places kept for each source.

For catalogues so small that a row of all of it is less work than a short list (``pool.py`` is for
the others).

Axes: ``B`` users, ``S`` sources, ``N`` items, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded


def quota_bonus(weights: Sequence[float]) -> float:
    """Give what lifts an item of a quota above any blend of ``weights``.

    And no higher: a float that is large has few digits left for the blend.
    """
    return 1.0 + sum(max(weight, 0.0) for weight in weights)


def fuse(
    scores: Sequence[Tensor],
    *,
    weights: Sequence[float],
    quotas: Sequence[int],
    excluded: Excluded,
    num_candidates: int,
) -> Tensor:
    """Give the ``num_candidates`` best items that are not excluded.

    Each source's positive scores are divided by its best one for that user, then blended with
    ``weights``. The ``quotas[s]`` best items of source ``s`` come first whatever the blend says:
    an item that only one source can know (a new one, by its words) is not voted out. Every item
    has a blended score, so fewer than ``num_candidates`` come back only when fewer exist.

    Args:
        scores: ``[B, N + 1]`` of each source.
        weights: One for each source.
        quotas: Places for each source's own best; 0 for none.
        excluded: Items that must not be chosen.
        num_candidates: C, at most N.

    Returns:
        ``[B, C]`` int64 rows, best first, 0 pads.
    """
    if len(scores) == 1 and weights[0] > 0:  # a share of the best one is in the order of scores
        value, index = best(excluded.mask(scores[0].clamp(min=0.0)), num_candidates)
        return padded(index, value)
    allowed = excluded.mask(torch.stack(tuple(scores), dim=1))
    shares = (allowed / allowed.amax(dim=2, keepdim=True).clamp(min=1e-9)).clamp_(min=0.0)
    blend = (shares.new_tensor(weights).expand(len(shares), 1, -1) @ shares).squeeze(1)
    for quota in sorted(set(quotas) - {0}):  # sources with as many places at once
        chosen = [source for source, places in enumerate(quotas) if places == quota]
        theirs = torch.stack([allowed[:, source] for source in chosen], dim=1)
        value, place = best(theirs.flatten(0, 1), quota)
        bonus = (value > 0) * quota_bonus(weights)
        blend.scatter_add_(1, place.reshape(len(blend), -1), bonus.reshape(len(blend), -1))
    value, index = best(excluded.mask(blend), min(num_candidates, blend.shape[1] - 1))
    return padded(index, value)


def padded(index: Tensor, value: Tensor) -> Tensor:
    """Give ``[B, C]`` items with 0 where the value, largest first, is -inf."""
    if value.shape[1] and -torch.inf in value[:, -1].tolist():
        return index.masked_fill(value == -torch.inf, 0)
    return index
