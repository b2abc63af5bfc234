"""Adagrad with one learning rate a row: what large embedding tables are commonly trained with.

The state is one number a row instead of two for each entry (Adam), and a step with sparse gradients
costs what was looked up. Gradients of a row that was looked up several times are added first, so
the result does not depend on how lookups fall together.

Source: Duchi et al. 2011, "Adaptive subgradient methods" (Adagrad), with the mean of the squared
gradient over a row in place of each entry's, as in Gupta et al. 2014, "Training highly multiclass
classifiers", section 4, and FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowWiseAdagrad(torch.optim.Optimizer):
    """Row-wise Adagrad over ``[N, D]`` weights with sparse or dense gradients."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-2, *, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the rows that have gradients; ``closure`` as torch has it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["squares"] = torch.zeros(len(weight), device=weight.device)
        squares: Tensor = state["squares"]
        if not gradient.is_sparse:
            squares += gradient.square().mean(dim=1)
            rate = group["lr"] / (squares.sqrt() + group["eps"])
            weight.addcmul_(gradient, rate.unsqueeze(1), value=-1.0)
            return
        rows, sums = sums_by_row(gradient)
        # Rows may come again at the end with nothing to add (``sums_by_row``): add, then read.
        squares.index_add_(0, rows, torch.linalg.vector_norm(sums, dim=1).square_() / sums.shape[1])
        rate = -group["lr"] / (squares.index_select(0, rows).sqrt_() + group["eps"])
        weight.index_add_(0, rows, sums.mul_(rate.unsqueeze(1)))


def sums_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Give the rows of a sparse ``[N, D]`` gradient and the sum of each, ``[R]`` and ``[R, D]``.

    Faster than ``coalesce``: the sums are an ``embedding_bag`` over the gradients sorted by row. On
    a CUDA device the answer is as long as the gradient, so that nothing waits for the number of
    different rows; past them it repeats the last row with a sum of zero.
    """
    rows, values = gradient._indices()[0], gradient._values()
    if gradient.is_coalesced() or len(rows) == 0:
        return rows, values.clone()
    # Half the bytes to sort; torch's coalesce sorts the wide ones.
    narrow = rows.int() if gradient.shape[0] <= torch.iinfo(torch.int32).max else rows
    ordered, place = narrow.sort(stable=True)
    if rows.is_cuda:
        return _sums_without_waiting(ordered, place, values)
    found, counts = torch.unique_consecutive(ordered, return_counts=True)
    starts = counts.cumsum(0) - counts
    return found.long(), F.embedding_bag(place, values, starts, mode="sum")


def _sums_without_waiting(ordered: Tensor, place: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Do as ``sums_by_row`` with shapes that are known before the data are."""
    length = len(ordered)
    places = torch.arange(length, device=ordered.device)
    is_first = torch.ones(length, dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
    segment = is_first.long().cumsum(0) - 1
    starts = torch.full_like(places, length).scatter_reduce_(0, segment, places, "amin")
    sums = F.embedding_bag(place, values, starts, mode="sum")
    return ordered[starts.clamp(max=length - 1)].long(), sums
