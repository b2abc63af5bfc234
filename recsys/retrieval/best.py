"""The largest of a long row: exact, and little more work than reading it once.

torch's ``topk`` of a million floats takes longer than the product that made them. Here the row is
cut into groups, whose maxima are found in one pass; the ``k`` largest elements lie in the ``k``
groups with the largest maxima, because each other group's elements are below ``k`` maxima. Only
those groups are looked at again.

Axes: ``B`` rows, ``N`` elements, ``k`` wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 64
"""Elements of a group: a maximum of so many is one pass of vector instructions."""
_WORTH_IT = 4
"""Groups there must be for each wanted element: with fewer, most of the row is looked at again."""


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Give the ``k`` largest of ``[B, N]``, largest first: values and places, ``[B, min(k, N)]``.

    Which of equal elements come is not said; it is the same for the same input.
    """
    size, length = scores.shape
    k = min(k, length)
    groups = length // _GROUP
    if groups < _WORTH_IT * k:
        value, place = scores.topk(k, dim=1)
        return value, place
    whole = groups * _GROUP
    grouped = scores[:, :whole].reshape(size, groups, _GROUP)
    chosen = grouped.amax(dim=2).topk(k, dim=1, sorted=False).indices
    inner = grouped.gather(1, chosen.unsqueeze(2).expand(-1, -1, _GROUP)).flatten(1)
    value, where = torch.cat([inner, scores[:, whole:]], dim=1).topk(k, dim=1)
    group = chosen.gather(1, (where // _GROUP).clamp(max=k - 1))
    place = torch.where(
        where < k * _GROUP, group * _GROUP + where % _GROUP, where - k * _GROUP + whole
    )
    return value, place
