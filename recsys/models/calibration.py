"""Calibration of each objective's probability on lists the model did not learn from.

Axes: ``O`` objectives.
Source: Platt 1999, "Probabilistic outputs for support vector machines", a logistic regression on
the logit, without its smoothed targets: there are thousands of labels, not dozens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_STEPS = 50
MIN_SLOPE = 0.05
"""Calibration never turns an order round, nor makes all probabilities one."""


class Calibration(nn.Module):
    """``slope * logit + offset`` per objective; as it is made it changes nothing."""

    slope: Tensor
    offset: Tensor

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(num_objectives))
        self.register_buffer("offset", torch.zeros(num_objectives))

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> None:
        """Fit to ``[n, O]`` uncalibrated logits and labels by Newton's method.

        An objective with one class keeps what it had: it says nothing of probabilities between.
        """
        for objective in range(logits.shape[1]):
            label = labels[:, objective].double()
            if not 0 < int(label.sum()) < len(label):
                continue
            slope, offset = _platt(logits[:, objective].double(), label)
            self.slope[objective] = slope
            self.offset[objective] = offset

    def forward(self, logits: Tensor) -> Tensor:
        """Give logits of the same shape ``[..., O]``."""
        return logits * self.slope + self.offset


def _platt(logit: Tensor, label: Tensor) -> tuple[float, float]:
    """Give slope and offset by Newton's method, its steps halved until they help."""
    inputs = torch.stack([logit, torch.ones_like(logit)], dim=1)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logit.device)
    loss = _loss(inputs @ weights, label)
    for _ in range(MAX_STEPS):
        p = torch.sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - label)
        curvature = (inputs * (p * (1 - p)).unsqueeze(1)).T @ inputs
        curvature += 1e-6 * torch.eye(2, dtype=curvature.dtype, device=curvature.device)
        step = torch.linalg.solve(curvature, gradient)
        while (found := _loss(inputs @ (weights - step), label)) > loss:
            step = step / 2
            if float(step.abs().max()) < 1e-9:
                break
        if float(step.abs().max()) < 1e-9:
            break
        weights, loss = weights - step, found
    return max(float(weights[0]), MIN_SLOPE), float(weights[1])


def _loss(logit: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, label, reduction="sum")
