"""Linear layers together with what is done to their outputs and inputs anyway.

Axes: ``M`` rows, ``X`` inputs, ``O`` outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEWEST_OUTPUTS = 12
"""From so many on, MKL rounds a row alike wherever it stands, on AMD's processors too."""


def add_output(total: Tensor, layer: nn.Module, inputs: Tensor) -> Tensor:
    """Give ``total + layer(inputs)`` of a layer without bias.

    ``total`` is ``[..., O]``, ``inputs`` ``[..., X]``. Without gradient the answer is written where
    ``total`` was, by the product itself.
    """
    if torch.is_grad_enabled() or not isinstance(layer, nn.Linear):  # encoded: ``compression``
        added: Tensor = total + layer(inputs)
        return added
    total.view(-1, total.shape[-1]).addmm_(inputs.flatten(0, -2), layer.weight.t())
    return total


def few_outputs(layer: nn.Module, *inputs: Tensor, add_to: Tensor | None = None) -> Tensor:
    """Give ``[O, M]``: what ``layer`` makes of ``[M, X]`` that stand side by side.

    For an O of a few. With rows as its columns the product takes a fifth of the time, and the
    inputs are not copied to stand side by side.

    Args:
        layer: A linear layer of as many inputs as there are in all.
        inputs: ``[..., X]`` each, of M rows.
        add_to: ``[O, M]`` that the output is added to.
    """
    if not isinstance(layer, nn.Linear):
        found: Tensor = layer(torch.cat(inputs, dim=-1)).flatten(0, -2).t()
        return found if add_to is None else add_to + found
    total = add_to
    if layer.bias is not None:
        bias = layer.bias.unsqueeze(1)
        total = bias if total is None else total + bias
    weights = torch.split(layer.weight, [rows.shape[-1] for rows in inputs], dim=1)
    for weight, rows in zip(weights, inputs, strict=True):
        columns = rows.flatten(0, -2).t()
        total = weight @ columns if total is None else torch.addmm(total, weight, columns)
    assert total is not None
    return total


def alike_anywhere(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Give ``layer(inputs)``, ``[M, O]`` of ``[M, X]``: a row's bits do not tell where it stands.

    Products of fewer than 12 outputs MKL makes by another kernel on AMD's processors, which rounds
    by whether a row begins at a multiple of 16 bytes (those of a mapped file need not), so outputs
    of zeros are added there. With gradient nothing is: what is served is computed in several ways,
    and must be the same.
    """
    if torch.is_grad_enabled() or not isinstance(layer, nn.Linear):
        outputs: Tensor = layer(inputs)
        return outputs
    missing = max(0, _FEWEST_OUTPUTS - len(layer.weight))
    weight = F.pad(layer.weight, (0, 0, 0, missing))
    bias = None if layer.bias is None else F.pad(layer.bias, (0, missing))
    return F.linear(inputs, weight, bias)[:, : len(layer.weight)].contiguous()
