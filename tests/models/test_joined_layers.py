"""Layers computed together are the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.compression.int8_linear import Int8Linear
from recsys.models.joined_layers import add_output, alike_anywhere, few_outputs


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


@pytest.mark.parametrize("num_outputs", [1, 2, 8, 11, 12, 32])
@pytest.mark.parametrize("num_inputs", [3, 5, 8, 17, 64, 66])
def test_a_row_is_the_same_bits_wherever_it_stands(num_inputs: int, num_outputs: int) -> None:
    layer = nn.Linear(num_inputs, num_outputs, bias=num_inputs == 8)
    rows = torch.randn(300 * num_inputs + 3)[3:].view(300, num_inputs)  # not at 16 bytes
    with torch.inference_mode():
        whole = alike_anywhere(layer, rows)
        torch.testing.assert_close(whole, layer(rows))
        for size in (16, 17, 41, 299):
            places = torch.randperm(len(rows))[:size]
            assert torch.equal(alike_anywhere(layer, rows[places]), whole[places])


@pytest.mark.parametrize("encoded", [True, False])
def test_what_is_alike_anywhere_is_what_the_layer_gives(encoded: bool) -> None:
    layer, rows = nn.Linear(5, 3, bias=False), torch.randn(16, 5)
    some = Int8Linear(layer) if encoded else layer
    with torch.no_grad():
        torch.testing.assert_close(alike_anywhere(some, rows), some(rows))
    alike_anywhere(layer, rows).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, rows.sum(0).expand(3, 5))
