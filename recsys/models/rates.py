"""Rates from counts: clicks of an impression, drawn towards the mean where there are few.

A network that sees the logarithms of both counts can form their ratio, but not how far to trust
it: two clicks of three impressions say less than two hundred of three hundred.

Axes: ``F`` feature columns, ``K`` rates.
Source: the mean of a beta-binomial posterior, with a prior of the training data's own rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.errors import ConfigurationError

PRIOR_COUNT = 10.0
"""Impressions that the prior is worth."""


def rate_columns(
    names: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[tuple[int, int], ...]:
    """Give the columns of pairs of features by name.

    Raises:
        ConfigurationError: when there is no feature of that name.

    >>> rate_columns(["shown", "clicks"], [("clicks", "shown")])
    ((1, 0),)
    """
    absent = sorted({name for pair in pairs for name in pair} - set(names))
    if absent:
        raise ConfigurationError(
            f"rates are wanted of {', '.join(absent)}, which the view does not have (found "
            f"{', '.join(names)}); change the rates or the view"
        )
    return tuple((names.index(n), names.index(d)) for n, d in pairs)


class Rates(nn.Module):
    """``(n + PRIOR_COUNT * prior) / (d + PRIOR_COUNT)`` of pairs of columns, standardised."""

    prior: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, pairs: tuple[tuple[int, int], ...]) -> None:
        """``pairs``: column of the numerator and of the denominator, both raw counts."""
        super().__init__()
        self._numerator = [n for n, _ in pairs]
        self._denominator = [d for _, d in pairs]
        for name, value in (("prior", 0.1), ("mean", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.full((len(pairs),), value))

    @torch.no_grad()
    def fit(self, counts: Tensor) -> None:
        """Take priors and statistics of ``[..., F]`` raw counts."""
        rows = counts.reshape(-1, counts.shape[-1]).float()
        numerator, denominator = rows[:, self._numerator], rows[:, self._denominator]
        self.prior.copy_(numerator.sum(0) / denominator.sum(0).clamp(min=1.0))
        rate = self._rate(rows)
        deviation = rate.std(dim=0, unbiased=False)
        self.mean.copy_(rate.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=1e-4), 0.0))

    def _rate(self, counts: Tensor) -> Tensor:
        numerator, denominator = counts[..., self._numerator], counts[..., self._denominator]
        return (numerator + PRIOR_COUNT * self.prior) / (denominator + PRIOR_COUNT)

    def forward(self, counts: Tensor) -> Tensor:
        """Give ``[..., K]`` of raw counts ``[..., F]``."""
        return ((self._rate(counts) - self.mean) * self.scale).clamp(-5.0, 5.0)
