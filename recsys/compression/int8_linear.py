"""Linear layers with weights of one byte.

Weights are encoded once, one scale an output (``rowwise.py``); inputs when they come, one scale a
row ("dynamic" quantisation: no calibration data, nothing to drift). Sums are exact integers.

``nn.Linear`` layers are exchanged in place, so any module can be taken; everything else (norms,
embeddings, activations between layers) stays in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.compression.rowwise import encode_rows, product

MIN_WEIGHTS = 1024
"""Layers with fewer weights stay as they are: one scale an output would cost more than it saves,
and the last layer of a head is where rounding shows."""


class Int8Linear(nn.Module):
    """``y = x W^T + b`` with encoded ``W``. For inference: there is no gradient."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Encode a layer's ``[out, in]`` weights."""
        super().__init__()
        rows, scale = encode_rows(linear.weight.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", rows)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Give ``[..., out]`` of ``[..., in]``."""
        flat = product(values.reshape(-1, self.in_features), self.weight, self.scale)
        if self.bias is not None:
            flat = flat + self.bias
        return flat.view(*values.shape[:-1], self.out_features)


def use_int8(module: nn.Module) -> int:
    """Exchange the linear layers inside ``module`` (not itself) and give their number.

    Layers of a type derived from ``nn.Linear`` are left: their forward is their own business.
    """
    exchanged = 0
    for name, child in module.named_children():
        if type(child) is nn.Linear and child.weight.numel() >= MIN_WEIGHTS:
            setattr(module, name, Int8Linear(child))
            exchanged += 1
        else:
            exchanged += use_int8(child)
    return exchanged
