"""Layers computed together are the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.compression.int8_linear import Int8Linear
from recsys.models.joined_layers import add_output, few_outputs


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("encoded", [True, False])
def test_an_output_is_added(encoded: bool, with_gradient: bool) -> None:
    layer = nn.Linear(5, 3, bias=False)
    inputs, total = torch.randn(2, 4, 5), torch.randn(2, 4, 3)
    some = Int8Linear(layer) if encoded else layer
    with torch.set_grad_enabled(with_gradient):
        wanted = total + some(inputs)
        torch.testing.assert_close(add_output(total.clone(), some, inputs), wanted)


@pytest.mark.parametrize("rows", [(2, 4), (1, 0), (7,)])
@pytest.mark.parametrize("encoded", [True, False])
def test_few_outputs_are_those_of_the_layers_side_by_side(
    encoded: bool, rows: tuple[int, ...]
) -> None:
    whole, direct = nn.Linear(8, 2), nn.Linear(3, 2, bias=False)
    first, second, third = (torch.randn(*rows, size, requires_grad=True) for size in (5, 3, 3))
    one = Int8Linear(whole) if encoded else whole
    found = few_outputs(direct, third, add_to=few_outputs(one, first, second))
    wanted = one(torch.cat([first, second], dim=-1)) + direct(third)
    torch.testing.assert_close(found.t().view(*rows, 2), wanted)
    if not encoded:
        parts = (first, second, third, *whole.parameters(), *direct.parameters())
        for one_, other in zip(
            torch.autograd.grad(found.square().sum(), parts),
            torch.autograd.grad(wanted.square().sum(), parts),
            strict=True,
        ):
            torch.testing.assert_close(one_, other)
