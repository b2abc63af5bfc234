"""Experts shared by all objectives, each of which mixes them in its own way.

One shared network makes objectives that disagree (a click is not a long view) pull at the same
weights; one network each learns nothing from the others where labels are few.

Axes: ``O`` objectives, ``X`` experts, ``E`` input width, ``K`` output width of an expert.
Source: Ma et al. 2018, "Modeling task relationships in multi-task learning with multi-gate
mixture-of-experts", eq. 6-7. The tower of an objective is linear; it stands beside linear terms of
crosses and inputs (``ranker.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MultiGateExperts(nn.Module):
    """Deep networks side by side, and a gate and a linear tower per objective."""

    def __init__(self, size: int, *, num_experts: int, num_objectives: int, dropout: float) -> None:
        super().__init__()
        self.num_objectives, self.num_experts = num_objectives, num_experts
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size), nn.ReLU(),
                nn.Dropout(dropout), nn.Linear(size, size // 2), nn.ReLU(),
            )
            for _ in range(num_experts)
        )  # fmt: skip
        self.gates = nn.Linear(size, num_objectives * num_experts)
        self.towers = nn.Parameter(torch.randn(num_objectives, size // 2) * (size // 2) ** -0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Give ``[..., O]`` logits of ``[..., E]``."""
        # Each expert's answer to each objective's tower, then the mix: the same sum as mixing first
        # and O times less to keep.
        said = torch.stack([expert(inputs) @ self.towers.T for expert in self.experts], dim=-1)
        gates: Tensor = self.gates(inputs)
        gates = gates.view(*gates.shape[:-1], self.num_objectives, self.num_experts)
        return (said * gates.softmax(dim=-1)).sum(dim=-1)
