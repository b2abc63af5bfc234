"""Raw features to what a network can read: signed log1p, then standardised by training statistics.

Models do this themselves, from buffers stored with their weights, so that features travel raw and
offline and online cannot normalise differently.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLAMP = 5.0
"""Standard deviations kept: an outlier (a wholesaler among shoppers) must not swamp a layer."""
MIN_DEVIATION = 1e-2
"""A feature that hardly moved in training would otherwise be blown up when it does."""


def signed_log1p(values: Tensor) -> Tensor:
    """Give ``sign(x) * log(1 + |x|)``."""
    return torch.copysign(values.abs().log1p(), values)


class Standardise(nn.Module):
    """``clamp((signed_log1p(x) - mean) / deviation)`` over the last axis.

    A column that did not vary in training gives 0, so that a feature which is absent in training
    (no impressions in the data) and present at serving moves nothing.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the statistics of ``[..., F]`` values; no rows leave them as they are."""
        rows = signed_log1p(values.reshape(-1, values.shape[-1]).float())
        if len(rows) == 0:
            return
        deviation = rows.std(dim=0, unbiased=False)
        self.mean.copy_(rows.mean(dim=0))
        self.scale.copy_(
            torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=MIN_DEVIATION), 0.0)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Give values of the same shape."""
        return (signed_log1p(values) - self.mean).mul_(self.scale).clamp_(-CLAMP, CLAMP)
