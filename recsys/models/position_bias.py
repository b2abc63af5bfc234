"""What a place in the displayed list adds by itself: learned beside the model, left out in serving.

People look at the first places whatever stands there. A shallow tower takes that part of the
labels, so that the rest need not pretend that what used to stand first is liked.

Axes: ``B`` lists, ``C`` places, ``O`` objectives.
Source: Zhao et al. 2019, "Recommending what video to watch next", section 4.3 and figure 5: added
to the logit of the main part, the place dropped in a share of training, missing at serving. We
differ in that the bias is measured from its mean over the places of training, so that leaving it
out means "at an average place" and probabilities stay calibrated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PositionBias(nn.Module):
    """A logit per place and objective."""

    share: Tensor

    def __init__(self, num_positions: int, num_objectives: int, *, dropout: float) -> None:
        """Places from ``num_positions`` on share the last one's logit."""
        super().__init__()
        self.dropout = dropout
        self.logit = nn.Parameter(torch.zeros(num_positions, num_objectives))
        self.register_buffer("share", torch.full((num_positions,), 1.0 / num_positions))

    @torch.no_grad()
    def fit(self, position: Tensor) -> None:
        """Count the ``[...]`` places of training, -1 where none is known."""
        known = position[position >= 0].long().clamp(max=len(self.share) - 1)
        if len(known):
            counts = torch.bincount(known, minlength=len(self.share)).to(self.share)
            self.share.copy_(counts / counts.sum())

    def forward(self, position: Tensor) -> Tensor:
        """Give ``[B, C, O]`` of places ``[B, C]``, from 0; -1 (unknown) adds nothing."""
        centred = self.logit - self.share @ self.logit
        place = position.long().clamp(min=0, max=len(centred) - 1)
        known = position >= 0
        if self.training and self.dropout > 0:
            known = known & (torch.rand(position.shape, device=position.device) >= self.dropout)
        return F.embedding(place, centred) * known.unsqueeze(-1)
