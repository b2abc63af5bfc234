"""Requests of several clients as one computation: tensors stacked, varying axes padded with 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def pad_and_stack(calls: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put calls with the same names together on the batch axis."""
    if len(calls) == 1:
        return dict(calls[0])
    return {name: _stack([call[name] for call in calls]) for name in calls[0]}


def _stack(tensors: list[Tensor]) -> Tensor:
    if all(tensor.shape[1:] == tensors[0].shape[1:] for tensor in tensors):
        return torch.cat(tensors)
    shape = torch.tensor([tensor.shape[1:] for tensor in tensors]).amax(0).tolist()
    target = tensors[0].new_zeros((sum(map(len, tensors)), *shape))
    begin = 0
    for tensor in tensors:
        window = (slice(begin, begin + len(tensor)), *(slice(n) for n in tensor.shape[1:]))
        target[window] = tensor
        begin += len(tensor)
    return target
