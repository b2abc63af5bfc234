"""A worker among its peers: what must be added up, averaged or shown to all of them.

With one worker everything here gives back what it was given, so that the same step runs alone and
on many. Gradients of all parameters travel as one flat tensor, which works for any module and any
backend torch has; those of sparse tables travel by themselves, and a table whose rows are spread
over the workers needs none of it, since each row's gradient already comes from everybody.

We do not wrap modules in ``DistributedDataParallel``: it listens to ``forward`` alone, while a step
here may call any method of a module; what it adds is overlap of communication and the backward
pass, which pays where gradients are larger than those of these models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class World:
    """This worker among its peers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, weight: Tensor) -> Tensor:
        """Give what a loss that is a mean over this worker's ``weight`` is to be multiplied by.

        Averaged over workers, the products are the mean over all of them: N workers with a batch
        of ``B / N`` then give the gradients of one with ``B``. A scalar; no gradient flows.
        """
        if self.size == 1:
            return torch.ones((), device=weight.device)
        own = weight.detach().sum()
        return own / self._sum(own.clone()).clamp(min=1e-12) * self.size

    def gathered(self, values: Tensor) -> Tensor:
        """Give the rows of all workers, by rank, ``[sum of B, ...]``; gradients flow back to each.

        Every worker's gradient of the whole comes back to the rows' owner, added up. Rows may be
        unequal in number; the other axes must agree.
        """
        if self.size == 1:
            return values
        lengths = torch.zeros(self.size, dtype=torch.long, device=values.device)
        lengths[self.rank] = len(values)
        counts = self._sum(lengths).tolist()
        longest = max(counts)
        if len(values) < longest:
            padding = values.new_zeros(longest - len(values), *values.shape[1:])
            values = torch.cat([values, padding])
        if values.requires_grad:
            # What torch names as torch.distributed.nn's successor; it has no public name yet.
            from torch.distributed._functional_collectives import all_gather_single_autograd

            every = all_gather_single_autograd(values.contiguous(), 0, dist.group.WORLD)
        else:
            every = values.new_empty(self.size * longest, *values.shape[1:])
            dist.all_gather_into_tensor(every, values.contiguous())
        return torch.cat([part[:n] for part, n in zip(every.split(longest), counts, strict=True)])

    def mean(self, value: float) -> float:
        """Give the mean of every worker's value."""
        if self.size == 1:
            return value
        return float(self._sum(torch.tensor([value], device=self.device))) / self.size

    def any(self, flag: bool) -> bool:
        """Tell whether any worker says so; all give the same answer."""
        return self.mean(float(flag)) > 0 if self.size > 1 else flag

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over the workers."""
        if self.size == 1:
            return
        dense: list[nn.Parameter] = []
        for parameter in module.parameters():
            if not parameter.requires_grad:
                continue
            if is_spread(parameter):
                if parameter.grad is not None:
                    parameter.grad /= self.size  # already the sum over everybody
            elif parameter.grad is not None and parameter.grad.is_sparse:
                shared = parameter.grad.coalesce()
                dist.all_reduce(shared)
                parameter.grad = shared / self.size
            else:
                dense.append(parameter)
        if not dense:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in dense]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for parameter, part in zip(dense, flat.split([p.numel() for p in dense]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _sum(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value


def is_spread(value: object) -> bool:
    """Tell whether a tensor's rows are spread over workers (torch's DTensor).

    Asked by what such a tensor can do: importing its class takes torch seconds.
    """
    return hasattr(value, "full_tensor")
