"""Softmax over the whole catalogue in a bounded piece of memory, and in one pass where it fits.

``[T, N]`` logits of a step are the largest thing of a next-item model (20,000 places against 10
million items: 800 GB). Here they exist for a few rows, or for a few rows and a block of items, at a
time, and their gradients are taken while they are there, so nothing of that size is kept.

Axes: ``T`` places to predict, ``N`` items, ``D`` embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MAX_LOGITS = 2**23
"""16 MB in bfloat16: stays in a processor's caches, and is below the size from which every new
tensor is mapped and cleared page by page, which costs more than the softmax itself."""
_MIN_ROWS = 128
"""Fewer rows than this a chunk and the matrix products starve: then the catalogue is cut."""


def chunked_softmax(
    queries: Tensor,
    item_vectors: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    smoothing: float = 0.0,
    max_logits: int = MAX_LOGITS,
    precision: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Give the weighted mean of ``-log softmax(q · V)[target]`` over all items.

    With ``smoothing`` the target is ``1 - smoothing`` on the item and the rest spread evenly over
    all N (Szegedy et al. 2016, "Rethinking the inception architecture", section 7).

    Args:
        queries: ``[T, D]``, already divided by a temperature where there is one.
        item_vectors: ``[N + 1, D]``; row 0 is padding and not in the denominator.
        target: ``[T]`` item rows, 1 … N.
        weight: ``[T]``, not all 0.
        smoothing: 0 … 1.
        max_logits: Logits that exist at a time.
        precision: Of the matrix products; sums and the gradients that are given back are float32.

    No places give 0. Gradients reach ``queries`` and ``item_vectors``, not ``weight``, and are
    computed in the forward pass (they are linear in what comes after), once: no second derivative.

    Source: the plain cross-entropy of a multinomial model (Klenitskiy & Vasilev 2023, "Turning
    dross into gold loss: is BERT4Rec really better than SASRec?", eq. 6); gradients in the forward
    pass after Hsu et al. 2024, "Liger kernel", section 3.2; blocks of the catalogue with a running
    normaliser after Wijmans et al. 2024, "Cut your losses in large-vocabulary language models".
    """
    total = weight.sum().clamp(min=1e-9)
    loss: Tensor = _ChunkedSoftmax.apply(  # type: ignore[no-untyped-call]
        queries, item_vectors, target, weight / total, smoothing, max_logits, precision
    )
    return loss


def chunk_shape(num_places: int, num_items: int, max_logits: int) -> tuple[int, int]:
    """Give rows and items of a chunk, together at most ``max_logits`` (but at least one logit)."""
    rows = max_logits // max(num_items, 1)
    if rows >= max(min(_MIN_ROWS, num_places), 1):
        return max(min(rows, num_places), 1), num_items
    rows = max(min(_MIN_ROWS, num_places, max_logits), 1)
    return rows, max(max_logits // rows, 1)


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, item_vectors: Tensor, target: Tensor, weight: Tensor,
        smoothing: float, max_logits: int, precision: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """Give the loss; keep its gradients."""
        with torch.autocast(queries.device.type, enabled=False):
            catalogue = item_vectors[1:].to(precision)
            places = _Places(queries, queries.to(precision), target - 1, weight)
            rows, columns = chunk_shape(len(queries), len(catalogue), max_logits)
            gradients = _Gradients(queries, item_vectors)
            middle = item_vectors[1:].float().mean(dim=0)
            loss = torch.zeros((), device=queries.device)
            for begin in range(0, len(queries), rows):
                part = places.part(begin, begin + rows)
                part.smoothing = smoothing
                if columns >= len(catalogue):
                    nll = _one_pass(part, catalogue, gradients)
                else:
                    nll = _two_passes(part, catalogue, item_vectors, columns, gradients)
                loss += (part.smoothed(nll, item_vectors, middle) * part.weight).sum()
            gradients.spread(queries, weight, middle, smoothing)
        ctx.save_for_backward(gradients.of_queries, gradients.of_items())
        ctx.dtypes = queries.dtype, item_vectors.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that were kept."""
        of_queries, of_items = ctx.saved_tensors
        queries, items = ctx.dtypes
        scaled = (of_queries * outer).to(queries), (of_items * outer).to(items)
        return *scaled, None, None, None, None, None


class _Places:
    """Rows of the matrix of logits."""

    def __init__(self, exact: Tensor, queries: Tensor, target: Tensor, weight: Tensor) -> None:
        self.exact, self.queries, self.target, self.weight = exact, queries, target, weight
        self.begin = 0
        self.smoothing = 0.0

    def part(self, begin: int, end: int) -> _Places:
        some = slice(begin, end)
        part = _Places(
            self.exact[some], self.queries[some], self.target[some], self.weight[some].float()
        )
        part.begin = begin
        return part

    def positive(self, item_vectors: Tensor) -> Tensor:
        """Give the targets' logits in float32, ``[rows]``."""
        return (self.exact.float() * item_vectors[self.target + 1].float()).sum(dim=1)

    def smoothed(self, nll: Tensor, item_vectors: Tensor, middle: Tensor) -> Tensor:
        """Give the loss against smoothed targets: the mean logit is that of the mean item."""
        if self.smoothing == 0.0:
            return nll
        evenly = nll + self.positive(item_vectors) - self.exact.float() @ middle
        return (1.0 - self.smoothing) * nll + self.smoothing * evenly


class _Gradients:
    """Sums in float32; those of the items transposed, which is how their product comes out."""

    def __init__(self, queries: Tensor, item_vectors: Tensor) -> None:
        self.of_queries = torch.zeros_like(queries, dtype=torch.float32)
        self.transposed = queries.new_zeros(
            queries.shape[1], len(item_vectors) - 1, dtype=torch.float32
        )

    def add(self, part: _Places, catalogue: Tensor, slope: Tensor, begin: int) -> None:
        """Add what ``slope`` ``[rows, items]`` means: softmax minus the target's own share, without
        the weights and without what smoothing spreads, which ``spread`` adds in one go."""
        weight = part.weight.unsqueeze(1)
        rows = slice(part.begin, part.begin + len(part.queries))
        self.of_queries[rows] += (slope @ catalogue).float() * weight
        weighted = part.queries * weight.to(part.queries.dtype)
        self.transposed[:, begin : begin + slope.shape[1]] += weighted.T @ slope

    def spread(self, queries: Tensor, weight: Tensor, middle: Tensor, smoothing: float) -> None:
        """Add the evenly spread share of the target: ``-smoothing / N`` for every logit."""
        if smoothing == 0.0:
            return
        self.of_queries -= smoothing * weight.float().unsqueeze(1) * middle
        pull = (queries.float() * weight.float().unsqueeze(1)).sum(dim=0)
        self.transposed -= (smoothing / self.transposed.shape[1]) * pull.unsqueeze(1)

    def of_items(self) -> Tensor:
        """Give ``[N + 1, D]``; nothing for the padding row."""
        return F.pad(self.transposed.T, (0, 0, 1, 0))


def _one_pass(part: _Places, catalogue: Tensor, gradients: _Gradients) -> Tensor:
    """Whole rows are there: the softmax is the gradient, but for the target."""
    probability = F.linear(part.queries, catalogue).softmax(dim=1)
    index = torch.arange(len(part.target), device=part.target.device), part.target
    # Of the very probabilities the gradient has; the smallest normal number keeps it finite.
    nll = -probability[index].float().clamp(min=1.2e-38).log()
    probability[index] -= 1.0 - part.smoothing
    gradients.add(part, catalogue, probability, 0)
    return nll


def _two_passes(
    part: _Places, catalogue: Tensor, item_vectors: Tensor, columns: int, gradients: _Gradients
) -> Tensor:
    """First the normaliser, block by block; then each block again for its gradient."""
    normaliser = part.weight.new_full((len(part.target),), -torch.inf)
    begins = range(0, len(catalogue), columns)
    for begin in begins:
        block = catalogue[begin : begin + columns]
        logits = F.linear(part.queries, block).float()
        normaliser = torch.logaddexp(normaliser, logits.logsumexp(dim=1))
    for begin in begins:
        block = catalogue[begin : begin + columns]
        logits = F.linear(part.queries, block).float()
        slope = logits.sub_(normaliser.unsqueeze(1)).exp_()
        column = part.target - begin
        here = ((column >= 0) & (column < len(block))).nonzero().flatten()
        slope[here, column[here]] -= 1.0 - part.smoothing
        gradients.add(part, block, slope.to(block.dtype), begin)
    return normaliser - part.positive(item_vectors)
