"""Several sources' own best items to one candidate list, blended as in ``fusion.py``.

For catalogues of which nobody wants to make a row for each source: what a source did not find is
looked at only where another found it.

Axes: ``B`` users, ``S`` sources, ``C`` candidates, ``P`` the pool of what all sources found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys.models.serving_model import Candidates
from recsys.retrieval.best import best
from recsys.retrieval.fusion import padded, quota_bonus
from recsys.retrieval.source import Found


def fuse_found(
    found: Sequence[Found],
    scores: Callable[[Tensor], Tensor],
    *,
    weights: Sequence[float],
    quotas: Sequence[int],
    num_candidates: int,
    fill: Tensor | None = None,
) -> Candidates:
    """Give the ``num_candidates`` best of what the sources found, by ``fusion.fuse``'s rule.

    An item that no source has among its own best is not in the list even if the blend of all its
    scores would put it there: that is the price of not scoring the whole catalogue by every source.
    Where sources give as many as are wanted (``num_candidates``), that concerns the list's end.

    Args:
        found: Of each source, nothing excluded in it.
        scores: Gives every source's score ``[B, S, P]`` of ``[B, P]`` items.
        weights: One for each source.
        quotas: Places for each source's own best; 0 for none.
        num_candidates: C.
        fill: ``[B, F]`` items that come last, where the sources' own may be too few; 0 pads.

    Returns:
        Best first; fewer than ``num_candidates`` only when the sources found fewer.
    """
    if len(found) == 1 and weights[0] > 0 and fill is None:  # in its own order already
        index = found[0].item[:, :num_candidates]
        return as_candidates(index, scores(index).transpose(1, 2))
    every = [one.item for one in found] + ([] if fill is None else [fill])
    pool = torch.cat(every, dim=1).sort(dim=1).values
    again = pool == 0  # an item that several found counts where it stands first
    again[:, 1:] |= pool[:, 1:] == pool[:, :-1]
    score = scores(pool)
    highest = torch.stack([_highest(one.score) for one in found], dim=1).clamp(min=1e-9)
    shares = (score / highest.unsqueeze(2)).clamp(min=0.0)
    blend = torch.einsum("bsp,s->bp", shares, score.new_tensor(weights))
    bonus = quota_bonus(weights)
    for source, quota in enumerate(quotas):
        if quota > 0:
            first = found[source].item[:, :quota].contiguous()
            place = torch.searchsorted(pool, first).clamp(max=pool.shape[1] - 1)
            is_good = (found[source].score[:, :quota] > 0) & (first != 0)
            blend.scatter_add_(1, place, is_good * bonus)
    blend.masked_fill_(again, -torch.inf)
    value, chosen = best(blend, min(num_candidates, blend.shape[1]))
    columns = chosen.unsqueeze(1).expand(-1, score.shape[1], -1)
    return as_candidates(
        padded(pool.gather(1, chosen), value), score.gather(2, columns).transpose(1, 2)
    )


def as_candidates(index: Tensor, score: Tensor) -> Candidates:
    """Give ``[B, C]`` items, padding last, with their ``[B, C, S]`` scores; 0 where padding is."""
    are_full = index.shape[1] > 0 and 0 not in index[:, -1].tolist()
    if not are_full:
        score = score * (index != 0).unsqueeze(2)
    return Candidates(index.to(torch.int32), score.contiguous(), are_full=are_full)


def _highest(score: Tensor) -> Tensor:
    """Give ``[B]`` of ``[B, C]``, 0 of nothing."""
    return score.amax(dim=1) if score.shape[1] else score.new_zeros(len(score))
