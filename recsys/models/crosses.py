"""One step of a DCN-V2 cross network, without what autograd would compute for nothing.

Source: Wang et al. 2021, "DCN V2", eq. 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cross(crossed: Tensor, start: Tensor, inner: Tensor) -> Tensor:
    """Give ``crossed + start * inner``, all of one shape: ``x_l + x_0 * (W x_l + b)``.

    The same as the expression, in one pass over memory; ``torch.addcmul`` is that too, but its own
    gradient multiplies each of the factors by its scalar 1 first, twice the work. Without gradient
    it is written where ``inner`` was, if all are of one type: other memory is not in the cache.
    """
    if not torch.is_grad_enabled():
        place = inner if inner.dtype == crossed.dtype == start.dtype else None
        return torch.addcmul(crossed, start, inner, out=place)
    answer: Tensor = _Cross.apply(crossed, start, inner)  # type: ignore[no-untyped-call]
    return answer


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, crossed: Tensor, start: Tensor, inner: Tensor) -> Tensor:
        """Keep the factors."""
        ctx.save_for_backward(start, inner)
        return torch.addcmul(crossed, start, inner)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the sum's three parts."""
        start, inner = ctx.saved_tensors
        return gradient, gradient * inner, gradient * start
